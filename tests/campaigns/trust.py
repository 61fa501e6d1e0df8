"""Campaigns that are too long for the suite; docs/reliability.md has their figures.

python tests/campaigns/trust.py kill --size 200      # or: fuzz, long, prompts, together
"""

import argparse
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "pocket")]
os.environ.setdefault("OMP_NUM_THREADS", "1")

import fuzzing  # noqa: E402
import psutil  # noqa: E402
import torch  # noqa: E402
from forked import Command  # noqa: E402
from training import assert_same, state  # noqa: E402
from writes import Writes, rows  # noqa: E402

SMALL = ["experiment=smoke", "trainer.max_steps=6", "mode.checkpoint_every=2", "mode.preview_every=3"]
SMALL += ["mode.turntable_frames=2", "export.resolution=24", "export.texture=0", "trainer.log_every_n_steps=1"]
FLAT = 1.1  # ratio of the later to the earlier memory, and of the earlier to the later speed


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a command in `folder`, in a new interpreter."""
    command = [sys.executable, str(ROOT / "launch.py"), *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def only_run(folder: Path) -> Path:
    (run,) = folder.glob("outputs/studies/*/*/*/config.yaml")
    return run.parent


def kill(folder: Path, size: int, rng: random.Random) -> str:
    """`size` times `kill -9`, half of them at a write, each at most once, half at a random moment: ends bit-equal.

    Every other one is resumed by `checkpoint=latest`, if it has a checkpoint, before the same command is repeated.
    """
    command, place = ["prompt=a cat", "study=killed", *SMALL], folder / "whole"
    place.mkdir()
    began = time.monotonic()
    status, said = Command(place, *command, first=partial(count_writes, place)).end()
    seconds = time.monotonic() - began
    assert status == 0, said
    whole, writes = only_run(place), int((place / "writes").read_text())
    moments: list[int | None] = [*rng.sample(range(writes), min(writes, size // 2))]
    at_writes = len(moments)
    moments += [None] * (size - at_writes)
    rng.shuffle(moments)
    unfinished = resumed = 0
    for number, write in enumerate(moments):
        place = folder / str(number)
        place.mkdir()
        if write is None:
            process = Command(place, *command)
            time.sleep(seconds * rng.random())
            process.kill()
        else:
            process = Command(place, *command, first=partial(kill_at, place, write))
        status, said = process.end()
        what = f"write {write} of {writes}" if write is not None else f"random moment {number}"
        assert status == -signal.SIGKILL or write is None, f"{what}: {status}: {said}"
        unfinished += not list(place.glob("outputs/studies/*/*/*/result.json"))
        if number % 2 and list(place.glob("outputs/studies/*/*/*/checkpoints/last.ckpt")):
            resumed += 1
            status, said = Command(place, "checkpoint=latest").end()
            assert status == 0, f"{what}: {said}"
        status, said = Command(place, *command).end()
        assert status == 0, f"{what}: {said}"
        run = only_run(place)
        assert rows(run) == rows(whole), f"{what}: {rows(run)}\n{rows(whole)}"
        assert_same(last_state(run), last_state(whole), what)
        left = [path.name for path in run.rglob(".*") if path.is_file()]
        assert not left, f"{what}: {left}"
        shutil.rmtree(place)
        print(f"{number + 1} of {size}: {what}", flush=True)  # a campaign that is stopped has said what it did
    return (
        f"{size} kills, {at_writes} at one of {writes} writes, {unfinished} before the result; {resumed} resumed by "
        "checkpoint=latest, all by the same command: bit-equal to the whole run"
    )


def last_state(run: Path) -> dict[str, Any]:
    """The last checkpoint of a run, without the setting that resumed it."""
    content = state(run / "checkpoints" / "last.ckpt")
    del content["config"]["checkpoint"]
    return content


def count_writes(folder: Path) -> None:
    """Count this process's writes into the file `writes`."""
    count = iter(range(1_000_000))
    writes = Writes(folder / "outputs", lambda: (folder / "writes").write_text(str(next(count) + 1)))
    assert writes


def kill_at(folder: Path, write: int) -> None:
    """Kill this process before its write number `write`, counted from 0."""
    count = iter(range(write))
    Writes(folder / "outputs", lambda: next(count, None) is None and os.kill(os.getpid(), signal.SIGKILL))


def fuzz(folder: Path, size: int, rng: random.Random) -> str:
    """`size` examples of hypothesis over all that this project reads; each ends with a result or one line."""
    return fuzzing.fuzz(folder, size, rng.randrange(2**32), SMALL)


def long(folder: Path, size: int, rng: random.Random) -> str:
    """One run of `size` steps: the memory and the speed of its last quarter are those of its second."""
    seldom = ["mode.checkpoint_every=500", "mode.preview_every=1000", "trainer.log_every_n_steps=10"]
    process = start(folder, "prompt=a cat", "study=long", *SMALL, *seldom, f"trainer.max_steps={size}")
    samples, said = sampled(process)
    assert process.returncode == 0, said
    steps, memory, seconds = zip(*samples, strict=True)
    costs = [
        (after[0] - before[0]) / (after[1] - before[1]) for before, after in pairwise(zip(seconds, steps, strict=True))
    ]
    assert compare_quarters(memory) < FLAT, f"memory grew: {memory}"
    assert compare_quarters(costs) < FLAT, f"the time of a step grew: {costs}"
    ratios = f"memory x {compare_quarters(memory):.3f}, processor time of a step x {compare_quarters(costs):.3f}"
    return (
        f"{size} steps: {ratios}; {statistics.median(costs) * 1000:.0f} ms a step, {max(memory) / 1e9:.2f} GB at most"
    )


def prompts(folder: Path, size: int, rng: random.Random) -> str:
    """`size` prompts in one process: its memory after the last is that after the first few."""
    (folder / "prompts.txt").write_text("".join(f"a cat number {number}\n" for number in range(size)))
    process = start(folder, "prompts.file=prompts.txt", "study=many", *SMALL, "trainer.max_steps=2")
    samples, said = sampled(process)
    finished = len(list(folder.glob("outputs/studies/many/*/*/result.json")))
    assert (process.returncode, finished) == (0, size), said
    _, memory, _ = zip(*samples, strict=True)
    assert compare_quarters(memory) < FLAT, f"memory grew: {memory}"
    return f"{size} prompts: memory x {compare_quarters(memory):.3f}, {max(memory) / 1e9:.2f} GB at most"


def together(folder: Path, size: int, rng: random.Random) -> str:
    """`size` identical commands at once, twice: each is told of the run at work, or that it is done, with status 0."""
    for repetition in range(2):
        processes = [start(folder, "-m", "prompt=a cat", "study=together", *SMALL) for _ in range(size)]
        for process in processes:
            said, _ = process.communicate()
            assert (process.returncode, "Traceback" in said) == (0, False), f"{repetition}: {said}"
        steps = [row["step"] for row in rows(only_run(folder))]
        assert steps == [str(step) for step in range(7)], steps
        assert (only_run(folder) / "result.json").is_file()
    return f"{size} identical multiruns at once, and again: one run, made once; all exit 0"


def sampled(process: subprocess.Popen[str]) -> tuple[list[tuple[int, int, float]], str]:
    """After each line of a command's progress: the step or prompt, resident bytes, and seconds of processor time.

    The second value is the end of the command's output.
    """
    assert process.stdout is not None
    watched, samples, last = psutil.Process(process.pid), [], deque[str](maxlen=50)
    for line in process.stdout:
        last.append(line)
        if found := re.match(r"(?:prompt )?(\d+)(?:/| of )\d+\b", line):
            times = watched.cpu_times()
            samples.append((int(found[1]), watched.memory_info().rss, times.user + times.system))
    process.wait()
    return samples, "".join(last)


def compare_quarters(values: Sequence[float]) -> float:
    """The median of the last quarter over that of the second one."""
    quarter = max(len(values) // 4, 1)
    return statistics.median(values[-quarter:]) / statistics.median(values[quarter : 2 * quarter])


CAMPAIGNS = {campaign.__name__: campaign for campaign in (kill, fuzz, long, prompts, together)}
SIZES = {"kill": 200, "fuzz": 10_000, "long": 20_000, "prompts": 200, "together": 8}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("campaign", choices=CAMPAIGNS)
    parser.add_argument(
        "--size", type=int, help=f"number of random kills, examples, steps, prompts or commands; by default {SIZES}"
    )
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        said = CAMPAIGNS[given.campaign](Path(folder), given.size or SIZES[given.campaign], random.Random(given.seed))
    print(f"{given.campaign}: {said}; {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
