"""Timing: interleaving, ratios, isolated processes, and restored settings."""

import os
import signal

import pytest
import torch

from dreamfusion.benchmark import timing
from dreamfusion.benchmark.isolated import isolated
from dreamfusion.benchmark.timing import (
    OURS,
    Measured,
    Row,
    Spread,
    added,
    interleaved,
    once,
    reference_ops,
    torch_threads,
)


def test_ratios_are_taken_round_by_round():
    row = Row("x", {}, {OURS: [1.0, 2.0, 4.0], "other": [3.0, 4.0, 4.0]})
    assert row.time() == Spread(1.0, 2.0, 4.0)
    assert row.ratio("other") == Spread(1.0, 2.0, 3.0)


def test_added_rows_sum_the_implementations_that_both_have():
    first = Row("a", {"points": 1}, {OURS: [1.0, 2.0], "other": [3.0, 4.0], "alone": [9.0, 9.0]})
    both = added("a and b", first, Row("b", {"points": 1}, {OURS: [10.0, 20.0], "other": [30.0, 40.0]}))
    assert both == Row("a and b", {"points": 1}, {OURS: [11.0, 22.0], "other": [33.0, 44.0]})


@pytest.mark.parametrize("threads", [1, 2])
def test_tasks_run_in_turn_on_the_requested_threads(threads, monkeypatch):
    order, before = [], torch.get_num_threads()
    monkeypatch.setattr(timing, "MOST", 2)
    tasks = {name: lambda name=name: order.append((name, torch.get_num_threads())) for name in "ab"}
    seconds = interleaved(tasks, rounds=2, threads=threads)
    a, b = ("a", threads), ("b", threads)
    assert order == [a, b] + [a, a, b, b] * 2  # warm, then two rounds of two runs
    assert all(len(times) == 2 and min(times) >= 0 for times in seconds.values())
    assert torch.get_num_threads() == before


def test_seconds_measured_by_a_task_replace_the_clock():
    seconds = interleaved({"here": lambda: 3.0, "elsewhere": lambda: Measured(3.0)}, rounds=2)
    assert seconds["elsewhere"] == [3.0, 3.0] and max(seconds["here"]) < 3.0


def test_a_measurement_is_the_median_of_several_short_runs_or_one_long_run():
    ticks = iter([0.0, 0.09, 1.0, 1.01, 2.0, 2.11, 3.0, 3.5])
    assert once(lambda: None, lambda: next(ticks)) == pytest.approx(0.09)  # of 0.09, 0.01 and 0.11
    assert once(lambda: None, lambda: next(ticks)) == pytest.approx(0.5)


def three_tasks():
    """Tasks for an isolated process: its pid, its thread count, and a failure."""
    return {"step": {"pid": lambda: Measured(os.getpid()), "settings": _threads, "failing": lambda: 1 / 0}}


def _threads():
    return Measured(torch.get_num_threads())


def test_isolated_tasks_run_in_their_own_process_which_ends_with_the_block():
    with isolated(three_tasks) as tasks:
        assert list(tasks["step"]) == ["pid", "settings", "failing"]
        seconds = interleaved({name: tasks["step"][name] for name in ("pid", "settings")}, rounds=1)
        pid = int(seconds["pid"][0])
        assert pid != os.getpid() and seconds["settings"] == [1.0]
        os.kill(pid, 0)  # the process exists
        with pytest.raises(ZeroDivisionError):
            tasks["step"]["failing"]()
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(RuntimeError, match="process that measures the baselines has ended"):
            tasks["step"]["pid"]()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("before", [None, "auto"])
def test_process_settings_are_restored(monkeypatch, before):
    monkeypatch.delenv("DREAMFUSION_OPS", raising=False)
    if before is not None:
        monkeypatch.setenv("DREAMFUSION_OPS", before)
    with pytest.raises(ZeroDivisionError), reference_ops(), torch_threads(3):
        assert os.environ["DREAMFUSION_OPS"] == "torch" and torch.get_num_threads() == 3
        _ = 1 / 0
    assert os.environ.get("DREAMFUSION_OPS") == before and torch.get_num_threads() != 3
