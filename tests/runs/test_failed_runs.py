"""A run that failed does not count as finished, and no file of a run holds NaN or Infinity."""

import json
import math
from dataclasses import replace

import pytest
import torch
from priors import Bad
from results import CAT, with_settings

from dreamfusion.cli.console import filter_messages
from dreamfusion.error import UserError
from dreamfusion.files import check_finite, write_json
from dreamfusion.mesh.density_grid import EmptyFieldError
from dreamfusion.mode.clean import _empty
from dreamfusion.runs.dream import Outputs, dream, run_in_study
from dreamfusion.runs.results import (
    FAILURE,
    SCORES,
    TRUE_HIGH,
    TRUE_LOW,
    check_objective,
    objective,
    read_result,
    write_result,
)
from dreamfusion.runs.study import ended
from dreamfusion.training.watchdog import Sick

SMALL = ["prompt=a cat", "experiment=smoke", "guidance=sd", "mode.preview_every=0", "mode.turntable_frames=1"]
SMALL += ["export.resolution=16", "export.texture=0", "mode.checkpoint_every=0"]
INFINITE = [lambda x: x * math.inf, lambda x: x.sign() * 1e30]


@pytest.fixture
def try_dream(compose_config, monkeypatch, tmp_path):
    """Run with a prior of the Gaussian's predictions, changed; returns the run's folder."""

    def run(change, *arguments):
        monkeypatch.setattr("dreamfusion.training.assemble.cached_prior", lambda _: Bad(change))
        filter_messages()
        cfg = compose_config(*SMALL, *arguments)
        dream(cfg, tmp_path / "s" / "p" / "r", Outputs(**{k: v for k, v in cfg.mode.items() if k[0] != "_"}))

    run.folder = tmp_path / "s" / "p" / "r"
    return run


@pytest.mark.parametrize("change", INFINITE, ids=["infinite", "1e30"])
def test_an_infinite_prediction_is_named_by_the_watchdog_and_the_run_is_not_finished(change, try_dream):
    with pytest.raises(Sick, match="the prior's prediction reaches"):
        try_dream(change)
    assert read_result(try_dream.folder) is None
    failure = read_result(try_dream.folder, FAILURE)
    assert "the prior's prediction reaches" in failure.failed and "distillation.guidance_scale" in failure.settings
    assert (failure.prompt, failure.steps) == ("a cat", 2)
    try_dream(lambda x: x, "watchdog=none")
    assert not (try_dream.folder / FAILURE).exists()


@pytest.mark.parametrize("change", INFINITE, ids=["infinite", "1e30"])
def test_without_a_watchdog_the_score_or_the_scene_that_is_not_finite_is_named(change, try_dream):
    with pytest.raises(
        UserError, match=r"prior_score is nan, so there is no usable result|training diverged before step 2"
    ):
        try_dream(change, "watchdog=none")
    assert read_result(try_dream.folder) is None
    for path in try_dream.folder.glob("*.json"):  # the figures of the mesh, which is written before the score
        check_finite(json.loads(path.read_text(encoding="utf-8")))


def test_an_empty_scene_is_not_finished_though_its_page_is_there(try_dream):
    with pytest.raises(EmptyFieldError, match="renders are empty"):
        try_dream(lambda x: x, "field.density_scale=1e-3", "watchdog=warn")
    assert read_result(try_dream.folder) is None
    assert (try_dream.folder / "index.html").is_file()


def test_an_evaluation_that_fails_leaves_a_finished_run(try_dream, monkeypatch, caplog):
    def evaluate_run(scene, export):
        assert (scene.run / "mesh.glb").is_file()
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr("dreamfusion.runs.evaluate.evaluate_run", evaluate_run)
    try_dream(lambda x: x, "mode.evaluate=true", "watchdog=none")
    assert read_result(try_dream.folder).pruned is None
    assert "no evaluation: OutOfMemoryError: out of memory; the results" in caplog.text


@pytest.mark.parametrize("arguments", [["field.density_scale=1e-3"], ["field.density_scale=1e-3", "watchdog=warn"]])
def test_a_search_gives_a_failed_run_the_worst_scores_with_the_reason(arguments, try_dream):
    try_dream(lambda x: x, "pruning=halving", "pruning.rungs=[]", *arguments)
    result = read_result(try_dream.folder)
    assert "empty" in result.pruned
    assert objective(try_dream.folder, "silhouette_iou") == objective(try_dream.folder, "prior_score") == -1e9


LOWER = ("color_difference", "chamfer", "normal_error", "truth_color_error", "azimuth_error", "second_face_rate")


@pytest.mark.parametrize("name", [*SCORES, *TRUE_HIGH, *TRUE_LOW])
def test_every_score_of_a_run_that_ended_early_is_finite_and_worse_than_any_real_one(name, tmp_path):
    check_objective(name, evaluate=True)
    write_result(replace(CAT, scores={}, pruned="the optimizer explodes"), tmp_path)
    assert objective(tmp_path, name) == objective(tmp_path / "none", name) == (1e9 if name in LOWER else -1e9)
    write_result(replace(CAT, scores={name: -11.5}, pruned="weak"), tmp_path)
    assert objective(tmp_path, [name]) == [-11.5]


def test_a_whole_run_without_the_score_of_its_search_is_no_value(tmp_path):
    write_result(CAT, tmp_path)
    with pytest.raises(UserError, match="objective is chamfer; the scores of a run are silhouette_iou"):
        objective(tmp_path, "chamfer")


def strict(path):
    return json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(f"{word} in {path.name}"))


def test_a_number_that_is_not_finite_is_refused_by_its_name_and_the_old_file_stays(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"scores": [1.0, 2]})
    with pytest.raises(UserError, match=r"scores\.1 is -inf, so there is no usable result"):
        write_json(path, {"scores": [1.0, -math.inf]})
    assert strict(path) == {"scores": [1.0, 2]}
    check_finite({"name": "nan", "flag": True, "large": 10**400, "none": None})


def test_an_infinite_setting_is_text_in_the_result(tmp_path):
    write_result(with_settings(trainer__gradient_clip_val=math.inf), tmp_path)
    assert strict(tmp_path / "result.json")["settings"]["trainer.gradient_clip_val"] == "inf"
    assert read_result(tmp_path).scores == CAT.scores


def test_a_run_of_a_study_that_cannot_be_assembled_is_a_failed_one(compose_config, monkeypatch, tmp_path):
    def refuse(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("dreamfusion.runs.dream.assemble", refuse)
    cfg, folder = compose_config(*SMALL), tmp_path / "s" / "p" / "r"
    with pytest.raises(torch.OutOfMemoryError):
        run_in_study(cfg, folder, Outputs(**{k: v for k, v in cfg.mode.items() if k[0] != "_"}))
    (row,) = ended(tmp_path / "s")
    assert "there is not enough memory" in row.failed and row.steps == 0
    assert list(_empty(folder)) == [folder]  # which mode=clean finds
