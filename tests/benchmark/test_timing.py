"""Side by side: the arithmetic of the ratios, and what the measuring leaves behind."""

import os

import pytest
import torch

from dreamfusion.benchmark.timing import OURS, Row, Spread, added, interleaved, reference_ops, torch_threads


def test_ratios_are_taken_round_by_round():
    row = Row("x", {}, {OURS: [1.0, 2.0, 4.0], "other": [3.0, 4.0, 4.0]})
    assert row.time() == Spread(1.0, 2.0, 4.0)
    assert row.ratio("other") == Spread(1.0, 2.0, 3.0)


def test_operations_one_after_the_other_add_up_where_both_were_measured():
    first = Row("a", {"points": 1}, {OURS: [1.0, 2.0], "other": [3.0, 4.0], "alone": [9.0, 9.0]})
    both = added("a and b", first, Row("b", {"points": 1}, {OURS: [10.0, 20.0], "other": [30.0, 40.0]}))
    assert both == Row("a and b", {"points": 1}, {OURS: [11.0, 22.0], "other": [33.0, 44.0]})


@pytest.mark.parametrize("threads", [1, 2])
def test_tasks_run_in_turn_on_the_threads_asked_for(threads):
    order, before = [], torch.get_num_threads()
    tasks = {name: lambda name=name: order.append((name, torch.get_num_threads())) for name in "ab"}
    seconds = interleaved(tasks, rounds=2, threads=threads)
    assert order == [("a", threads), ("b", threads)] * 3  # the first round warms up
    assert all(len(times) == 2 and min(times) >= 0 for times in seconds.values())
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("before", [None, "auto"])
def test_the_settings_of_the_process_come_back(monkeypatch, before):
    monkeypatch.delenv("DREAMFUSION_OPS", raising=False)
    if before is not None:
        monkeypatch.setenv("DREAMFUSION_OPS", before)
    with pytest.raises(ZeroDivisionError), reference_ops(), torch_threads(3):
        assert os.environ["DREAMFUSION_OPS"] == "torch" and torch.get_num_threads() == 3
        _ = 1 / 0
    assert os.environ.get("DREAMFUSION_OPS") == before and torch.get_num_threads() != 3
