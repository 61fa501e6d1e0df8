"""Map a function over inputs in worker processes that may crash or hang, by `pebble`: each failure costs one input.

`concurrent.futures` cannot do this: a crash there breaks the whole pool, and a hung task cannot be stopped.
"""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pebble import ProcessExpired, ProcessFuture, ProcessPool

Task = TypeVar("Task")
Result = TypeVar("Result")

AHEAD = 16  # tasks per worker scheduled beyond the one whose result is due: bounds the results held in memory


@dataclass(frozen=True)
class Failure:
    """The reason why an input has no result."""

    reason: str


def map_processes(
    function: Callable[[Task], Result], tasks: Sequence[Task], workers: int, timeout: float
) -> Iterator[tuple[int, Result | Failure]]:
    """Yield (index, result) in the order of `tasks`.

    A task that raises, ends its process or takes longer than `timeout` seconds yields a `Failure`. `function` must be
    importable, tasks and results picklable; starting a process and importing `function` do not count as task time.
    """
    pool = ProcessPool(max_workers=workers, context=multiprocessing.get_context("spawn"))
    ahead = AHEAD * workers
    pending = deque(pool.schedule(function, (task,), timeout=timeout) for task in tasks[:ahead])
    try:
        for index in range(len(tasks)):
            result = _result(pending.popleft(), timeout)
            if index + ahead < len(tasks):
                pending.append(pool.schedule(function, (tasks[index + ahead],), timeout=timeout))
            yield index, result
    finally:
        pool.stop()
        pool.join()


def _result(future: ProcessFuture[Result], timeout: float) -> Result | Failure:
    try:
        return future.result()
    except TimeoutError:
        return Failure(f"no result after {timeout:g} seconds")
    except ProcessExpired as error:
        return Failure(f"the process ended with exit code {error.exitcode}")
    # any other exception comes from the task and must cost no more than that task
    except Exception as error:
        return Failure(str(error) or type(error).__name__)
