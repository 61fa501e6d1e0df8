"""Campaigns that are too long for the suite; docs/reliability.md has their figures.

python tests/campaigns/trust.py kill --size 200      # or: fuzz, long, prompts, together
"""

import argparse
import csv
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
from omegaconf import OmegaConf

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from training import assert_same, state  # noqa: E402

SMALL = ["experiment=smoke", "trainer.max_steps=6", "mode.checkpoint_every=2", "mode.preview_every=3"]
SMALL += ["mode.turntable_frames=2", "export.resolution=24", "export.texture=0", "trainer.log_every_n_steps=1"]
MEASURED = ("speed/", "memory/", "seconds", "export_seconds")  # columns that differ between any two runs
VALUES = ("null", "0", "-1", "1e308", "1e-30", "nan", "inf", "[]", "{}", "[1,2]", "true", "''", "ümlaut", "999999999")
FLAT = 1.1  # ratio of the later to the earlier memory, and of the earlier to the later speed


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a command in `folder`."""
    command = [sys.executable, str(ROOT / "launch.py"), *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def end(process: subprocess.Popen[str], seconds: float = 1800) -> tuple[int, str]:
    """Exit status and output of a command."""
    said, _ = process.communicate(timeout=seconds)
    return process.returncode, said


def check_one_line(status: int, said: str, what: str) -> None:
    """A command gives a result, or one line that says what is wrong."""
    assert "Traceback" not in said, f"{what}: {said}"
    assert status == 0 or said.count("error: ") == 1, f"{what}: {status}: {said}"


def only_run(folder: Path) -> Path:
    (run,) = folder.glob("outputs/studies/*/*/*/config.yaml")
    return run.parent


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if not k.startswith(MEASURED)} for row in csv.DictReader(file)]


def kill(folder: Path, size: int, rng: random.Random) -> str:
    """`kill -9` at `size` moments over a command; the same command then ends bit-equal to one that was not killed."""
    command = ["prompt=a cat", "study=killed", *SMALL]
    folder.joinpath("whole").mkdir()
    began = time.monotonic()
    status, said = end(start(folder / "whole", *command))
    seconds = time.monotonic() - began
    assert status == 0, said
    whole, unfinished = only_run(folder / "whole"), 0
    for moment in range(size):
        place = folder / str(moment)
        place.mkdir()
        process = start(place, *command)
        time.sleep(seconds * (moment + rng.random()) / size)
        process.kill()
        end(process)
        unfinished += not list(place.glob("outputs/studies/*/*/*/result.json"))
        status, said = end(start(place, *command))
        assert status == 0, f"moment {moment}: {said}"
        run = only_run(place)
        assert rows(run) == rows(whole), f"moment {moment}: {rows(run)}\n{rows(whole)}"
        assert_same(state(run / "checkpoints" / "last.ckpt"), state(whole / "checkpoints" / "last.ckpt"))
        left = [path.name for path in run.rglob(".*") if path.is_file()]
        assert not left, f"moment {moment}: {left}"
    return f"{size} kills, {unfinished} before the result: {size} ends bit-equal to the whole run"


def fuzz(folder: Path, size: int, rng: random.Random) -> str:
    """`size` commands with a random value in a random setting, and exports of checkpoints with a flipped bit."""
    settings = sorted(leaves(OmegaConf.to_container(OmegaConf.load(reference(folder) / "config.yaml"))))
    checkpoint = reference(folder) / "checkpoints" / "last.ckpt"
    content, results = checkpoint.read_bytes(), 0
    for number in range(size):
        if number % 2:
            place = rng.randrange(len(content))
            damaged = folder / "damaged.ckpt"
            damaged.write_bytes(
                content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]
            )
            arguments = ["mode=export", f"checkpoint={damaged}", "export.texture=0", "export.resolution=24"]
        else:
            arguments = ["prompt=a cat", *SMALL, f"{rng.choice(settings)}={rng.choice(VALUES)}"]
        status, said = end(start(folder, *arguments))
        check_one_line(status, said, " ".join(arguments))
        results += status == 0
    return f"{size} commands: {results} results, {size - results} errors of one line"


def leaves(tree: object, name: str = "") -> list[str]:
    if not isinstance(tree, dict):
        return [name]
    inner = [leaves(value, f"{name}.{key}".lstrip(".")) for key, value in tree.items() if key[0] != "_"]
    return [leaf for part in inner for leaf in part]


def reference(folder: Path) -> Path:
    """A finished run."""
    if not list(folder.glob("outputs/studies/reference/*/*")):
        status, said = end(start(folder, "prompt=a cat", "study=reference", *SMALL))
        assert status == 0, said
    return next(folder.glob("outputs/studies/reference/*/*"))


def long(folder: Path, size: int, rng: random.Random) -> str:
    """One run of `size` steps: the memory and the speed of its last quarter are those of its second."""
    process = start(folder, "prompt=a cat", "study=long", *SMALL, f"trainer.max_steps={size}", "camera.size=32")
    memory = sampled(process)
    assert process.returncode == 0, "the long run failed"
    speeds = [
        float(row["speed/steps_per_second"]) for row in all_rows(only_run(folder)) if row["speed/steps_per_second"]
    ]
    assert compare_quarters(memory) < FLAT, f"memory grew: {memory}"
    assert 1 / compare_quarters(speeds) < FLAT, "the speed fell"
    return f"{size} steps: memory x {compare_quarters(memory):.3f}, speed x {compare_quarters(speeds):.3f}"


def prompts(folder: Path, size: int, rng: random.Random) -> str:
    """`size` prompts in one process: its memory after the last is that after the first few."""
    (folder / "prompts.txt").write_text("".join(f"a cat number {number}\n" for number in range(size)))
    process = start(folder, "prompts.file=prompts.txt", "study=many", *SMALL, "trainer.max_steps=2")
    memory = sampled(process)
    finished = len(list(folder.glob("outputs/studies/many/*/*/result.json")))
    assert (process.returncode, finished) == (0, size)
    assert compare_quarters(memory) < FLAT, f"memory grew: {memory}"
    return f"{size} prompts: memory x {compare_quarters(memory):.3f}, {max(memory) / 1e9:.2f} GB at most"


def together(folder: Path, size: int, rng: random.Random) -> str:
    """`size` identical commands at once: one run, made once; the other commands name it or say that it is taken."""
    processes = [start(folder, "prompt=a cat", "study=together", *SMALL) for _ in range(size)]
    ended = [end(process) for process in processes]
    for status, said in ended:
        check_one_line(status, said, "together")
    assert (only_run(folder) / "result.json").is_file()
    steps = [row["step"] for row in rows(only_run(folder))]
    assert steps == [str(step) for step in range(7)], steps
    done = sum(status == 0 for status, _ in ended)
    return f"{size} identical commands: one run, {done} with status 0, {size - done} with one line"


def sampled(process: subprocess.Popen[str]) -> list[int]:
    """Resident bytes of a command after each line of its output."""
    assert process.stdout is not None
    watched, memory = psutil.Process(process.pid), []
    for line in process.stdout:
        if re.match(r"\d+/\d+ |prompt \d+", line):
            memory.append(watched.memory_info().rss)
    process.wait()
    return memory


def all_rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def compare_quarters(values: Sequence[float]) -> float:
    """The median of the last quarter over that of the second one."""
    quarter = max(len(values) // 4, 1)
    return statistics.median(values[-quarter:]) / statistics.median(values[quarter : 2 * quarter])


CAMPAIGNS = {campaign.__name__: campaign for campaign in (kill, fuzz, long, prompts, together)}
SIZES = {"kill": 200, "fuzz": 10_000, "long": 20_000, "prompts": 200, "together": 8}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("campaign", choices=CAMPAIGNS)
    parser.add_argument("--size", type=int, help=f"number of kills, commands, steps or prompts; by default {SIZES}")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        said = CAMPAIGNS[given.campaign](Path(folder), given.size or SIZES[given.campaign], random.Random(given.seed))
    print(f"{given.campaign}: {said}; {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
