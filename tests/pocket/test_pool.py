import os
import time

from dreamfusion.pocket.data.pool import Failure, map_processes


def misbehave(task: str) -> str:
    if task == "crash":
        os._exit(3)
    if task == "hang":
        time.sleep(60)
    if task == "raise":
        raise ValueError("no good")
    return task.upper()


def test_crashes_hangs_and_exceptions_affect_only_their_own_task():
    tasks = ["a", "crash", "b", "hang", "raise", "c", "d"]
    results = list(map_processes(misbehave, tasks, workers=2, timeout=5.0))
    assert results == [
        (0, "A"),
        (1, Failure("the process ended with exit code 3")),
        (2, "B"),
        (3, Failure("no result after 5 seconds")),
        (4, Failure("no good")),
        (5, "C"),
        (6, "D"),
    ]


def test_results_come_in_the_order_of_the_tasks():
    tasks = [0.3, 0.0, 0.0, 0.1]
    started = time.monotonic()
    assert list(map_processes(wait_for, tasks, workers=2, timeout=900.0)) == list(enumerate(tasks))
    assert time.monotonic() - started < 900.0
    assert list(map_processes(wait_for, [], workers=2, timeout=1.0)) == []


def wait_for(seconds: float) -> float:
    time.sleep(seconds)
    return seconds
