"""A command composes its configuration no more often than its answer needs, and reads changed files again."""

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.global_hydra import GlobalHydra
from launched import ROOT, launched

from dreamfusion.cli import composition
from dreamfusion.cli.composition import compose_quickly


@pytest.fixture
def compositions(monkeypatch):
    """The overrides of each composition."""
    compose, made = ConfigLoaderImpl.load_configuration, []

    def load(self, config_name, overrides, *rest, **options):
        made.append(list(overrides))
        return compose(self, config_name, overrides, *rest, **options)

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", load)
    return made


def test_a_plain_command_is_composed_once(compositions, tmp_path):
    launched(tmp_path, "mode=gallery", "hydra.run.dir=here")
    assert compositions == [["mode=gallery", "hydra.run.dir=here", "hydra.mode=RUN"]]


@pytest.mark.parametrize("place", ["command line", "folder", "conf"])
def test_several_runs_begin_wherever_hydras_mode_is_set(place, compositions, tmp_path, monkeypatch):
    text = "# @package _global_\nhydra: {mode: MULTIRUN, sweeper: {params: {seed: '0,1'}}}\n"
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    arguments = {
        "command line": ["hydra.mode=MULTIRUN", "seed=0,1"],
        "folder": ["--config-dir", str(tmp_path), "experiment=mine"],
        "conf": ["experiment=mine"],
    }[place]
    if place == "conf":
        monkeypatch.setattr(composition, "CONFIGURATION", tmp_path)
        arguments = ["--config-path", str(link(tmp_path / "conf", tmp_path / "experiment" / "mine.yaml")), *arguments]
    launched(tmp_path, "mode=gallery", *arguments)
    assert [one for one in compositions if "seed=0" in one] and [one for one in compositions if "seed=1" in one]


def link(folder, experiment):
    """A copy of conf/ of links, with one more experiment."""
    folder.mkdir()
    for path in (ROOT / "conf").iterdir():
        if path.name != "experiment":
            (folder / path.name).symlink_to(path)
    (folder / "experiment").mkdir()
    (folder / "experiment" / experiment.name).symlink_to(experiment)
    return folder


def test_a_file_is_read_again_after_a_change_and_the_copy_is_the_callers(tmp_path):
    compose_quickly()
    source = FileConfigSource("main", f"file://{tmp_path}")
    (tmp_path / "a.yaml").write_text("x: 1")
    first = source.load_config("a").config
    first.x = 7
    assert source.load_config("a").config.x == 1
    (tmp_path / "a.yaml").write_text("x: 22")
    assert source.load_config("a").config.x == 22
    GlobalHydra.instance().clear()
