"""No secret is stored: what a resolver reads stays as it was written."""

import json

from omegaconf import OmegaConf

from dreamfusion.runs.begin import begin
from dreamfusion.runs.gallery import entry_of
from dreamfusion.runs.settings import resolved, run_settings

SETTINGS = {
    "seed": 3,
    "system": {"seed": "${seed}", "key": "${oc.env:SECRET}", "list": ["x${oc.env:SECRET}", "\\${x} ${oc.env:SECRET}"]},
    "copy": "${system.key}",
    "text": "\\${seed} $5 {x}",
}


class Recorder:
    def log_hyperparams(self, settings):
        self.settings = settings


def test_references_are_resolved_and_resolvers_are_not(monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    found = resolved(OmegaConf.create(SETTINGS))
    assert found["system"]["seed"] == 3
    assert found["text"] == "${seed} $5 {x}"
    assert found["copy"] == found["system"]["key"] == "${oc.env:SECRET}"
    assert found["system"]["list"][0] == "x${oc.env:SECRET}"
    assert "hunter2" not in json.dumps(run_settings(OmegaConf.create(SETTINGS)))


def test_neither_files_nor_loggers_get_a_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    recorder = Recorder()
    begin(OmegaConf.create(SETTINGS | {"prompt": "${oc.env:SECRET}"}), tmp_path, [recorder], new=True)
    assert "hunter2" not in json.dumps(recorder.settings)
    assert "${oc.env:SECRET}" in (tmp_path / "config.yaml").read_text()
    assert "hunter2" not in (tmp_path / "config.yaml").read_text()
    assert "hunter2" not in str(entry_of(tmp_path))  # also of a foreign config.yaml


def test_the_settings_are_not_written_through_a_symbolic_link(tmp_path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").symlink_to(tmp_path / "victim")
    begin(OmegaConf.create(SETTINGS), tmp_path / "run", [], new=True)
    assert (tmp_path / "victim").read_text() == "mine"
    assert not (tmp_path / "run" / "config.yaml").is_symlink()
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"config.yaml", "run.json"}
