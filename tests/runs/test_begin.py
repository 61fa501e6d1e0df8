"""A new run in the folder of an earlier one passes off nothing of it as its own."""

import pytest

from dreamfusion.runs.begin import begin, forget_scores_of_another
from dreamfusion.runs.summary import add_to_summary, read_summary
from dreamfusion.training.loggers import earlier_id, wandb

OLD = (
    *("result.json", "failure.json", "summary.json", "rungs.json", "evaluation.json", "truth_check.png"),
    *("mesh.glb", "mesh.lod1.obj", "robot.obj", "splats.ply", "turntable.mp4", "checkpoints/last.ckpt"),
    *("previews/000001.png", "metrics.csv", "tensorboard/events.out.tfevents.1"),
)
OWN = ("note.md", "my_mesh.glb", "wandb/offline-run-20260101_000000-abc123/run.wandb", "stills_512/front.png")


@pytest.mark.parametrize("new", [True, False])
def test_the_files_of_an_earlier_run_are_removed_if_it_is_replaced(compose_config, tmp_path, new):
    for name in (*OLD, *OWN):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    begin(compose_config("prompt=a dog"), tmp_path, [], new)
    left = {name for name in OLD if (tmp_path / name).exists()}
    assert left == (set() if new else {*OLD} - {"result.json", "failure.json"})
    assert all((tmp_path / name).exists() for name in OWN)
    assert "a dog" in (tmp_path / "config.yaml").read_text()


@pytest.mark.parametrize("new", [True, False])
def test_a_new_run_has_a_run_of_its_own_in_wandb(compose_config, tmp_path, monkeypatch, new):
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "wandb" / "offline-run-20260101_000000-abc123").mkdir(parents=True)
    loggers = wandb(tmp_path, "a cat", "test", None, [])
    monkeypatch.setattr(type(loggers[-1]), "log_hyperparams", lambda *given: None)
    begin(compose_config("prompt=a dog"), tmp_path, loggers[-1:], new)
    assert loggers[-1].version == loggers[-1]._wandb_init["id"] == (None if new else "abc123")
    assert earlier_id(tmp_path) == "abc123"


@pytest.mark.parametrize("step", [300, 600])
def test_scores_of_an_earlier_step_are_forgotten(tmp_path, step):
    for name in ("evaluation.json", "truth_check.png", "mesh.obj"):
        (tmp_path / name).touch()
    add_to_summary(tmp_path, {"steps": 300, "volume_iou": 0.5})
    forget_scores_of_another(step, tmp_path)
    assert read_summary(tmp_path) == ({"steps": 300, "volume_iou": 0.5} if step == 300 else {})
    assert (tmp_path / "evaluation.json").exists() == (tmp_path / "truth_check.png").exists() == (step == 300)
    assert (tmp_path / "mesh.obj").exists()
