import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from launched import QUICK
from results import CAT
from training import assert_same, state

from dreamfusion.runs import refine as refine_module
from dreamfusion.runs.refine import ENDED, STAGE, compare, refine, second_stage
from dreamfusion.runs.results import write_result
from dreamfusion.runs.settings import plain


def test_the_second_stage_is_what_scene_mesh_composes_from_the_first_ones_checkpoint(compose_config):
    stage = plain(second_stage(compose_config("experiment=refine", "seed=3"), Path("run/last.ckpt")))
    wanted = plain(compose_config("scene=mesh", "seed=3", "start=run/last.ckpt"))
    assert stage == wanted
    assert all(stage[name] is None for name in ENDED)
    assert stage["resume"]
    assert not second_stage(compose_config("experiment=refine", "resume=false"), Path("run/last.ckpt")).resume


def test_a_finished_second_stage_is_repeated_only_with_resume_false(compose_config, tmp_path, monkeypatch, caplog):
    """Both without checkpoints, which mode=clean removes."""
    caplog.set_level("INFO")
    for folder in (tmp_path, tmp_path / STAGE):
        folder.mkdir(exist_ok=True)
        write_result(replace(CAT, scores={"prior_score": 0.5}), folder)
    refine(compose_config("experiment=refine"), tmp_path, None)
    assert "refined: prior score 0.500, before 0.500" in caplog.text
    ran = []
    monkeypatch.setattr(refine_module, "run_in_study", lambda cfg, folder, outputs: ran.append((cfg.resume, folder)))
    monkeypatch.setattr(refine_module, "find_checkpoint", Path)
    refine(compose_config("experiment=refine", "resume=false"), tmp_path, None)
    assert ran == [(False, tmp_path / STAGE)]


@pytest.mark.parametrize(
    "before, after, said",
    [
        ({"prior_score": 0.5}, {"prior_score": 0.9}, "refined: prior score 0.900, before 0.500"),
        ({"prior_score": 0.5}, {"prior_score": 0.4}, "lower prior score than its start (0.400, before 0.500)"),
        ({"prior_score": 0.5, "fscore_1": 0.6}, {"prior_score": 0.4, "fscore_1": 0.7}, "truth 0.700, before 0.600"),
        ({"prior_score": 0.5, "fscore_1": 0.6}, {"prior_score": 0.9, "fscore_1": 0.5}, "worse than its start (F-score"),
        ({"fscore_1": 0.6}, {"prior_score": 0.9}, "refine.html"),
    ],
)
def test_a_refined_scene_is_compared_by_the_truth_or_else_by_the_prior_and_both_are_kept(
    before, after, said, tmp_path, caplog
):
    caplog.set_level("INFO")
    for folder, scores in ((tmp_path, before), (tmp_path / STAGE, after)):
        folder.mkdir(exist_ok=True)
        write_result(replace(CAT, scores=scores), folder)
    compare(tmp_path)
    assert said in caplog.text
    assert (tmp_path / "refine.html").is_file()
    assert ("use the mesh in" in caplog.text) == ("worse" in said)


def test_one_command_runs_both_stages_and_the_second_resumes_bit_for_bit(launch, tmp_path):
    small = ["refine.camera.size=16", "refine.scene.resolution=8", "refine.trainer.max_steps=2"]
    small += ["mode.checkpoint_every=1", "hydra.run.dir=run"]
    ended = launch(tmp_path, "prompt=a cat", *QUICK, "experiment=[refine,smoke]", *small)
    assert ended.status == 0, ended.text
    assert "refine.html" in ended.text
    checkpoints = tmp_path / "run" / STAGE / "checkpoints"
    first = state(checkpoints / "last.ckpt")
    shutil.copy(checkpoints / "previous.ckpt", checkpoints / "last.ckpt")
    (tmp_path / "run" / STAGE / "result.json").unlink()
    (tmp_path / "run" / "refine.html").unlink()
    ended = launch(tmp_path, f"checkpoint=run/{STAGE}")
    assert ended.status == 0, ended.text
    again = state(checkpoints / "last.ckpt")
    assert_same(again | {"config": None}, first | {"config": None})  # its settings name the checkpoint
    assert (tmp_path / "run" / "refine.html").is_file()
