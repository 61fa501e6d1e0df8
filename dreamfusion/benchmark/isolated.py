"""Run baselines in a separate process, with the default settings of torch and the C library.

Our process keeps large blocks (`dreamfusion.ops.allocator`), which would speed up the baselines too.
"""

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import torch

from dreamfusion.benchmark.timing import Measured, once

Tasks = Mapping[str, Mapping[str, Callable[[], object]]]  # by operation, then by implementation


@contextmanager
def isolated(build: Callable[..., Tasks], *arguments: object) -> Iterator[Tasks]:
    """Build the tasks of `build(*arguments)` in a new process; each call from here returns the seconds it took there.

    Both `build` and its arguments must be picklable. One thread.

    Raises:
        RuntimeError: in a call, if the process has ended.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, build, arguments), daemon=True)
    process.start()
    there.close()  # so that `recv` fails when the process ends
    try:
        names: Mapping[str, list[str]] = _receive(here)
        yield {group: {name: partial(_request, here, group, name) for name in names[group]} for group in names}
    finally:
        process.kill()
        process.join()


def _request(connection: Connection, group: str, name: str) -> Measured:
    return Measured(_receive(connection, (group, name)))


def _receive(connection: Connection, question: tuple[str, str] | None = None) -> Any:
    try:
        if question is not None:
            connection.send(question)
        return connection.recv()
    except (EOFError, BrokenPipeError, ConnectionResetError) as error:
        raise RuntimeError("the process that measures the baselines has ended; its error is above") from error


def _serve(connection: Connection, build: Callable[..., Tasks], arguments: tuple[object, ...]) -> None:
    """Send back the seconds of one run of each requested task, until the parent ends the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    torch.set_num_threads(1)
    tasks = build(*arguments)
    connection.send({group: list(tasks[group]) for group in tasks})
    while True:
        group, name = connection.recv()
        connection.send(once(tasks[group][name]))
