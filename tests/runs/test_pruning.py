"""Weak runs end early: collapsed runs, and runs with a low score at a rung."""

import math
from types import SimpleNamespace

import pytest

from dreamfusion.error import UserError
from dreamfusion.runs.pruning import Halving, halving, in_better_share, none, read_rungs, scores_of_other_runs


def trained(folder, scores, rungs=(0.25, 0.5), keep=0.5, startup=2, steps=8):
    """Run 8 steps with the next of `scores` at each rung; returns the last step and the callback."""
    values = iter(scores)
    (pruner,) = halving(folder, lambda: next(values), rungs, keep, startup)
    strategy = SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision)
    trainer = SimpleNamespace(
        max_steps=steps,
        should_stop=False,
        is_global_zero=True,
        strategy=strategy,
    )
    for step in range(1, steps + 1):
        trainer.global_step = step
        pruner.on_train_batch_end(trainer, None, None, None, 0)
        if trainer.should_stop:
            break
    return step, pruner


def test_a_run_with_a_low_score_ends_at_the_rung_and_the_others_continue(tmp_path):
    runs = tmp_path / "study" / "a-cat"
    assert trained(runs / "1", [0.5, 0.5])[0] == 8
    assert trained(runs / "2", [0.6, 0.4])[0] == 4  # second of two at the second rung
    step, pruner = trained(runs / "3", [0.1])
    assert (step, pruner.score) == (2, 0.1)
    assert pruner.reason == "its score at 0.25 of the run, 0.1000, is not in the better 50%"
    assert trained(tmp_path / "study" / "a-dog" / "4", [0.05, 0.05])[0] == 8  # a harder prompt
    assert sorted(scores_of_other_runs(runs / "1", 0.25)) == [0.1, 0.6]
    assert read_rungs(runs / "2") == {"0.25": 0.6, "0.5": 0.4, "ended at 0.5": 1.0}


def test_a_run_resumed_after_a_kill_is_not_compared_with_itself(tmp_path):
    folder = tmp_path / "study" / "a-cat" / "1"
    trained(folder, [0.5, 0.4])
    assert trained(folder, [])[0] == 8  # the decisions of its file, without a measurement
    assert read_rungs(folder) == {"0.25": 0.5, "0.5": 0.4}


def test_a_score_that_is_not_finite_ends_the_run_and_is_null_in_the_file(tmp_path):
    step, pruner = trained(tmp_path / "s" / "p" / "1", [math.nan])
    assert step == 2
    assert "nan, is not in the better 50%" in pruner.reason
    assert (tmp_path / "s" / "p" / "1" / "rungs.json").read_text() == '{"0.25": null, "ended at 0.25": 1.0}\n'
    assert scores_of_other_runs(tmp_path / "s" / "p" / "2", 0.25) == []


def test_half_of_the_runs_at_a_rung_continue_once_there_are_enough():
    others = [0.1, 0.2, 0.3]
    assert [in_better_share(score, others, 0.5, 4) for score in (0.05, 0.15, 0.25, 0.35)] == [False, False, True, True]
    assert in_better_share(0.05, others, 0.5, 5)
    assert in_better_share(0.05, others, 1.0, 2)
    assert not in_better_share(math.nan, [], 1.0, 4)


def test_no_pruning_adds_no_callback(tmp_path):
    assert none(tmp_path, lambda: 0.0) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rungs": [1.0]}, r"pruning.rungs is \[1.0\]; it must list fractions"),
        ({"keep": 0}, "pruning.keep is 0; it must be above 0"),
        ({"startup": 1}, "pruning.startup is 1; it must be at least 2"),
    ],
)
def test_impossible_settings_are_refused(tmp_path, change, message):
    settings = {"rungs": [0.5], "keep": 0.5, "startup": 2} | change
    with pytest.raises(UserError, match=message):
        Halving(tmp_path, lambda: 0.0, **settings)


def resumed(folder, scores, state, step=2):
    values = iter(scores)
    (pruner,) = halving(folder, lambda: next(values), (0.25, 0.5), 0.5, 2)
    pruner.load_state_dict(state)
    strategy = SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision)
    trainer = SimpleNamespace(max_steps=8, global_step=step, should_stop=False, is_global_zero=True, strategy=strategy)
    pruner.on_train_start(trainer, None)
    return trainer.should_stop


def test_an_interruption_at_a_rung_changes_no_decision(tmp_path):
    runs = tmp_path / "study" / "a-cat"
    trained(runs / "1", [0.5, 0.5])
    undecided = {"reason": None, "score": None}
    assert resumed(runs / "2", [0.1], undecided)  # killed while it was measured
    assert not resumed(runs / "3", [0.9], undecided)
    assert not resumed(runs / "4", [], undecided, step=3)
    assert not resumed(runs / "1", [], undecided)  # passed it, whatever came since
    _, ended = trained(runs / "5", [0.1])
    assert ended.state_dict()["reason"] == ended.reason is not None
    assert resumed(runs / "5", [], ended.state_dict())  # killed before its result was written


def test_second_stages_are_compared_with_second_stages(tmp_path):
    runs = tmp_path / "study" / "a-cat"
    for name, score in (("1", 0.5), ("2", 0.9)):
        (runs / name).mkdir(parents=True)
        (runs / name / "config.yaml").touch()
        trained(runs / name, [0.1, 0.1])
        trained(runs / name / "refined", [score, score])
    assert scores_of_other_runs(runs / "1" / "refined", 0.25) == [0.9]
    assert scores_of_other_runs(runs / "1", 0.25) == [0.1]
