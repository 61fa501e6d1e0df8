"""Runs one function over many inputs in worker processes that may crash or hang: such an input costs only itself.

`concurrent.futures` can do neither: a crash there breaks the whole pool, and a hung task cannot be stopped.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Generic, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Failure:
    """Why there is no result for an input."""

    reason: str


def map_processes(
    function: Callable[[Task], Result], tasks: Sequence[Task], workers: int, timeout: float
) -> Iterator[tuple[int, Result | Failure]]:
    """(index, result) in the order of `tasks`. What raises, ends its process or takes longer than `timeout` seconds
    becomes a `Failure`. `function` must be importable, tasks and results picklable; the time that a process takes to
    start and import it does not count.
    """
    pool = [_Worker(function) for _ in range(min(workers, len(tasks)))]
    waiting = iter(enumerate(tasks))
    finished: dict[int, Result | Failure] = {}
    try:
        for worker in pool:
            worker.start_next(waiting)
        for index in range(len(tasks)):
            while index not in finished:
                for worker in _finished(pool, timeout):
                    finished[worker.index] = worker.finish(timeout)
                    worker.start_next(waiting)
            yield index, finished.pop(index)
    finally:
        for worker in pool:
            worker.stop()


class _Worker(Generic[Task, Result]):
    """A process and the task it is at; a new process takes the place of one that had to be stopped."""

    def __init__(self, function: Callable[[Task], Result]) -> None:
        self._function = function
        self._launch()

    def _launch(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other_end = context.Pipe()
        self._process: SpawnProcess = context.Process(target=_serve, args=(self._function, other_end), daemon=True)
        self._process.start()
        other_end.close()
        self.index = -1  # of the current task; -1: none
        self.ready = False  # the process has said that it can begin
        self.started = math.inf  # when it was able to begin with the task, seconds

    def start_next(self, waiting: Iterator[tuple[int, Task]]) -> None:
        self.index, task = next(waiting, (-1, None))
        if self.index >= 0:
            self.started = time.monotonic() if self.ready else math.inf
            with contextlib.suppress(BrokenPipeError):  # the process has ended: `finish` will say so
                self.connection.send(task)

    def finish(self, timeout: float) -> Result | Failure:
        """The result of the task that is ready or overdue."""
        if self.connection.poll():
            try:
                result: Result | Failure = self.connection.recv()
                return result
            except (EOFError, ConnectionResetError):
                self._process.join()
                reason = f"the process ended with exit code {self._process.exitcode}"
        else:
            reason = f"no result after {timeout:g} seconds"
        index = self.index
        self.stop()
        self._launch()
        self.index = index
        return Failure(reason)

    def begin(self) -> None:
        """Take the process's word that it is ready; from now on its first task's time counts."""
        try:
            self.connection.recv()
        except (EOFError, ConnectionResetError):  # it ended while it started: let `finish` see that
            self.started = -math.inf
            return
        self.ready, self.started = True, time.monotonic()

    def stop(self) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()


def _finished(pool: Sequence[_Worker[Task, Result]], timeout: float) -> list[_Worker[Task, Result]]:
    """The busy workers that have answered, ended, or are overdue; at least one."""
    busy = [worker for worker in pool if worker.index >= 0]
    while True:
        patience = min(worker.started for worker in busy) + timeout - time.monotonic()
        answered = wait([w.connection for w in busy], timeout=None if patience == math.inf else max(patience, 0.0))
        for worker in busy:
            if not worker.ready and worker.connection in answered:
                worker.begin()
                answered.remove(worker.connection)
        now = time.monotonic()
        if finished := [w for w in busy if w.connection in answered or now - w.started >= timeout]:
            return finished


def _serve(function: Callable[[Task], Result], connection: Connection) -> None:
    """What a worker process does: answer one task after the other until the other end is closed."""
    connection.send(None)  # ready
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        try:
            answer: Result | Failure = function(task)
        # whatever goes wrong in a task is reported to the parent and must not end the worker
        except Exception as error:
            answer = Failure(str(error) or type(error).__name__)
        connection.send(answer)
