"""Scores of a user's own: measured, checked and compared as the others are."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf
from results import CAT

from dreamfusion.error import UserError
from dreamfusion.runs import scores
from dreamfusion.runs.leaderboard import leaderboard
from dreamfusion.runs.names import digest
from dreamfusion.runs.results import check_objective, objective, write_result
from dreamfusion.runs.scores import own_scores


def fail(scene):
    raise RuntimeError("no network")


@pytest.fixture
def measured(monkeypatch):
    """A function that returns what judges functions by name."""
    monkeypatch.setattr(scores, "instantiate", dict)
    return lambda **functions: own_scores(functions)


def test_scores_are_measured_and_those_that_fail_left_out(measured, tmp_path, caplog):
    judge = measured(steepness=lambda scene: scene.step / 2, broken=fail, endless=lambda scene: float("inf"))
    assert judge(SimpleNamespace(step=3, run=tmp_path)) == {"steepness": 1.5}
    assert "no broken: RuntimeError: no network" in caplog.text
    assert "no endless: " in caplog.text


def test_without_scores_nothing_is_measured(tmp_path):
    for nothing in (None, {}):
        assert own_scores(nothing)(SimpleNamespace(run=tmp_path)) == {}


def test_wrong_scores_are_named(measured):
    with pytest.raises(UserError, match=r"scores\.prior_score has the name of a score"):
        measured(prior_score=fail)
    with pytest.raises(UserError, match=r"scores\.steepness makes a float, not a function of the scene; add _partial_"):
        measured(steepness=0.5)


def test_a_search_may_have_them_as_objective(tmp_path):
    with pytest.raises(UserError, match="objective is steepness; the scores of a run are"):
        check_objective("steepness")
    check_objective("steepness", own=["steepness"])
    write_result(CAT, tmp_path)
    with pytest.raises(UserError, match="objective is steepness"):
        objective(tmp_path, "steepness", {"steepness": 1e9})
    assert objective(tmp_path / "none", ["steepness", "chamfer"], {"steepness": -1e9}) == [-1e9, 1e9]


def test_folders_of_runs_without_them_keep_their_names():
    settings = {"prompt": "a cat", "seed": 0}
    names = [digest(OmegaConf.create(settings | more)) for more in ({}, {"scores": {}}, {"scores": {"a": {"b": 1}}})]
    assert names[0] == names[1] != names[2]


def test_the_leaderboard_has_a_column_for_each(tmp_path):
    make = partial(type(CAT), "a cat", 0, 100, 12.5, settings=CAT.settings, path=Path("run"))
    leaderboard("pets", [make(scores={"volume_iou": 0.5, "steepness": 1.25, "prior_score": 0.1})], tmp_path)
    head, row = (tmp_path / "leaderboard.md").read_text().split("| method", 1)[1].splitlines()[:3:2]
    assert "steepness" in head and "1.25" in row
    assert "prior_score" not in head
