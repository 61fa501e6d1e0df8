"""Interleaved timing: tasks run in turn, round by round, so that background load affects all of them."""

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import torch

OURS = "kernels"  # reference of the ratios
ENOUGH, MOST = 0.2, 25  # seconds and runs after which a measurement ends


@dataclass(frozen=True)
class Spread:
    """Minimum, median and maximum of several measurements."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Self:
        return cls(min(values), statistics.median(values), max(values))


@dataclass(frozen=True)
class Row:
    """One operation under one setting: seconds of each implementation in each round."""

    operation: str
    setting: dict[str, int | str]
    seconds: dict[str, list[float]]

    def time(self, name: str = OURS) -> Spread:
        """Seconds of one implementation over the rounds."""
        return Spread.of(self.seconds[name])

    def ratio(self, name: str) -> Spread:
        """Time of `name` relative to ours, round by round."""
        return Spread.of([other / ours for other, ours in zip(self.seconds[name], self.seconds[OURS], strict=True)])


class Measured(float):
    """Seconds measured by a task itself, in another process; used instead of the clock here."""


def interleaved(tasks: Mapping[str, Callable[[], object]], rounds: int, threads: int = 1) -> dict[str, list[float]]:
    """Seconds of each task by `once`, `rounds` times in turn after one warm-up round.

    With one thread this is its CPU time, which excludes waiting for other programs but not their cache contention; with
    several it is wall-clock time.
    """
    clock = time.thread_time if threads == 1 else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    with torch_threads(threads):
        for task in tasks.values():
            task()
        for _ in range(rounds):
            for name, task in tasks.items():
                seconds[name].append(once(task, clock))
    return seconds


def once(task: Callable[[], object], clock: Callable[[], float] = time.thread_time) -> float:
    """Seconds of a task: the median of as many runs as fill ENOUGH seconds, or of a single longer run.

    A single short run would be dominated by the cache state that the task before left.
    """
    runs: list[float] = []
    while sum(runs) < ENOUGH and len(runs) < MOST:
        begin = clock()
        result = task()
        if isinstance(result, Measured):
            return float(result)
        runs.append(clock() - begin)
    return statistics.median(runs)


def added(operation: str, *rows: Row) -> Row:
    """Sum operations into one row, for the implementations that all of them have."""
    names = [name for name in rows[0].seconds if all(name in row.seconds for row in rows)]
    seconds = {name: [sum(parts) for parts in zip(*(row.seconds[name] for row in rows), strict=True)] for name in names}
    return Row(operation, rows[0].setting, seconds)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Set the thread count of torch's operations and ours; restore the previous one afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def reference_ops() -> Iterator[None]:
    """Run every operation by its torch reference (DREAMFUSION_OPS=torch)."""
    before = os.environ.pop("DREAMFUSION_OPS", None)
    os.environ["DREAMFUSION_OPS"] = "torch"
    try:
        yield
    finally:
        del os.environ["DREAMFUSION_OPS"]
        if before is not None:
            os.environ["DREAMFUSION_OPS"] = before
