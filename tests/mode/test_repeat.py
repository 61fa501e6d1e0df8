"""A run is repeated from its config.yaml, which is foreign data."""

import pytest
import torch
from omegaconf import OmegaConf

from dreamfusion.checkpoint import read_checkpoint
from dreamfusion.error import CheckpointError
from dreamfusion.runs.dream import experiment
from dreamfusion.runs.find import NEWEST, note_newest, with_start
from dreamfusion.runs.names import digest
from dreamfusion.runs.resume import repeated_settings
from dreamfusion.untrusted import LARGEST, UntrustedError, read_configuration


def test_a_run_is_repeated_bit_for_bit_from_its_configuration(finished, launch, tmp_path):
    config = finished.run / "config.yaml"
    ended = launch(tmp_path, f"config={config}")
    assert ended.status == 0, ended.text
    (run,) = (tmp_path / "outputs" / "train" / finished.run.parent.name).iterdir()
    first, second = (read_checkpoint(folder / "checkpoints" / "last.ckpt") for folder in (finished.run, run))
    assert first["state_dict"].keys() == second["state_dict"].keys()
    assert all(torch.equal(value, second["state_dict"][name]) for name, value in first["state_dict"].items())
    kept = [line for line in config.read_text().splitlines() if not line.startswith("config:")]
    assert [line for line in (run / "config.yaml").read_text().splitlines() if not line.startswith("config:")] == kept
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["train"]


def test_the_start_of_a_run_is_repeated_unless_the_command_names_another(finished, compose_config, tmp_path):
    saved = OmegaConf.load(finished.run / "config.yaml")
    saved.start = "outputs/train/a-cat/1/checkpoints/last.ckpt"
    OmegaConf.save(saved, tmp_path / "config.yaml")
    named = f"config={tmp_path / 'config.yaml'}"
    assert repeated_settings(compose_config(named), [named]).start == saved.start
    assert repeated_settings(compose_config(named, "start=cat.glb"), [named, "start=cat.glb"]).start == "cat.glb"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("prompt: ", "prompt: ${oc.env:HOME} #"), "does not refer to a setting"),
        (("_target_: dreamfusion.camera.orbit.Orbit", "_target_: os.system"), "names os.system at camera"),
        (("seed: 0", "seed: !!python/object/apply:os.system [x]"), "ConstructorError"),
        (("seed: 0", "seed: &a [1]\nb: *a"), "an alias"),
        (("seed: 0", "seed: ["), "cannot be read"),
    ],
    ids=["secret", "target", "python", "alias", "broken"],
)
def test_a_configuration_that_is_not_plain_data_is_one_line(finished, launch, tmp_path, change, reason):
    path = tmp_path / "config.yaml"
    path.write_text((finished.run / "config.yaml").read_text().replace(*change, 1))
    ended = launch(tmp_path, f"config={path}")
    assert ended.status == 1
    assert reason in ended.text
    assert ended.text.count("\n") == 1, ended.text
    assert not (tmp_path / "outputs" / "train").exists()


def test_aliases_cannot_grow_without_bound_and_a_large_or_missing_file_is_named(tmp_path):
    path = tmp_path / "config.yaml"
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60))]
    for content in ("\n".join(lines), "a: " + "x" * LARGEST):
        path.write_text(content)
        with pytest.raises(UntrustedError, match="characters or an alias"):
            read_configuration(path)
    with pytest.raises(UntrustedError, match="No such file"):
        read_configuration(tmp_path / "none.yaml")


def test_kernels_and_determinism_of_the_run_are_repeated_unless_the_command_names_others(
    finished, compose_config, tmp_path
):
    saved = OmegaConf.load(finished.run / "config.yaml")
    saved.ops, saved.deterministic = "torch", True
    OmegaConf.save(saved, tmp_path / "config.yaml")
    named = f"config={tmp_path / 'config.yaml'}"
    found = repeated_settings(compose_config(named), [named])
    assert (found.ops, found.deterministic) == ("torch", True)
    found = repeated_settings(compose_config(named, "ops=auto"), [named, "ops=auto"])
    assert (found.ops, found.deterministic) == ("auto", True)


def test_the_experiment_of_a_run_is_that_of_its_resumption_and_its_repetition(compose_config, tmp_path):
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "run.json").write_text('{"sessions": [{"experiment": "paper"}, {"experiment": null}, 3]}')
    cfg = compose_config("prompt=a cat")
    assert experiment(cfg, tmp_path / "first") == {"experiment": "paper"}
    assert experiment(cfg, tmp_path / "second") == {}
    cfg.config = str(tmp_path / "first" / "config.yaml")
    assert experiment(cfg, tmp_path / "second") == {"experiment": "paper"}


def test_the_newest_scene_is_that_before_the_first_run_and_a_path_in_its_files(
    finished, compose_config, tmp_path, monkeypatch
):
    monkeypatch.setenv(NEWEST, "of an earlier command")
    monkeypatch.chdir(finished.folder)
    cfg = compose_config("prompt=a dog", "start=latest")
    note_newest(["prompt=a dog", "start=latest"])
    monkeypatch.chdir(tmp_path)  # where there are other runs, or none
    found = with_start(cfg)
    assert found.start.startswith("outputs") and found.start.endswith("last.ckpt")
    assert digest(cfg) == digest(compose_config("prompt=a dog", "start=latest")) != digest(found)
    note_newest(["start=cat.glb"])
    assert with_start(compose_config("start=cat.glb")).start == "cat.glb"
    for once in (lambda: note_newest(["start=latest"]), lambda: with_start(cfg)):
        with pytest.raises(CheckpointError, match="no run under outputs"):
            once()


def test_a_setting_that_is_new_does_not_rename_the_runs_before(compose_config):
    cfg = compose_config("prompt=a dog", "guidance=sd")
    before = cfg.copy()
    del before.guidance.prediction
    assert (
        digest(cfg)
        == digest(before)
        != digest(compose_config("prompt=a dog", "guidance=sd", "guidance.prediction=epsilon"))
    )
