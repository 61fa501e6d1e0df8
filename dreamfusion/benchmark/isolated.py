"""Run baselines in a separate process, with the default settings of torch and the C library.

Our process keeps large blocks (`dreamfusion.ops.allocator`), which would speed up the baselines too.
"""

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from dreamfusion.benchmark.timing import Measured, once

Tasks = Mapping[str, Mapping[str, Callable[[], object]]]  # by operation, then by implementation
_tasks: dict[str, Mapping[str, Callable[[], object]]] = {}  # of the process that measures


@contextmanager
def isolated(build: Callable[..., Tasks], *arguments: object) -> Iterator[Tasks]:
    """Build the tasks of `build(*arguments)` in a new process; each call from here returns the seconds it took there.

    Both `build` and its arguments must be picklable. One thread.

    Raises:
        RuntimeError: in a call, if the process has ended.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, initializer=partial(_start, build, *arguments)) as process:

        def ask(question: Callable[..., Any], *which: str) -> Any:
            try:
                return process.submit(question, *which).result()
            except BrokenProcessPool as error:
                raise RuntimeError("the process that measures the baselines has ended; its error is above") from error

        names = ask(_names)
        yield {group: {name: partial(ask, _seconds, group, name) for name in names[group]} for group in names}


def _start(build: Callable[..., Tasks], *arguments: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    torch.set_num_threads(1)
    _tasks.update(build(*arguments))


def _names() -> dict[str, list[str]]:
    return {group: list(tasks) for group, tasks in _tasks.items()}


def _seconds(group: str, name: str) -> Measured:
    return Measured(once(_tasks[group][name]))
