"""Nothing lost: workers of a study are killed at random moments, and the same command goes on until all is done."""

import csv
import multiprocessing
import os
import random
import runpy
import signal
import sys
import time
from contextlib import chdir, suppress
from pathlib import Path

import pytest
import torch
from runs import ROOT, files

COMMAND = ["-m", "prompt=a cat,a dog", "study=killed", "experiment=smoke", "trainer.max_steps=4"]
COMMAND += ["mode.checkpoint_every=1", "mode.preview_every=0"]
PATIENCE = 300  # seconds; a machine may have other work
WHOLE = {
    "checkpoints/last.ckpt",
    "config.yaml",
    "index.html",
    "mesh.glb",
    "metrics.csv",
    "mesh_check.png",
    "result.json",
    "summary.json",
    "turntable.mp4",
}


def command(folder):
    """What a user types, in a process of its own."""
    torch.set_num_threads(1)
    sys.argv = [str(ROOT / "launch.py"), *COMMAND]
    with chdir(folder), Path(os.devnull).open("w") as sys.stdout:
        runpy.run_path(sys.argv[0], run_name="__main__")


@pytest.fixture(scope="module")
def processes():
    """Processes that have the imports behind them, so that a kill comes at a moment of the run itself."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dreamfusion.mode.train", "dreamfusion.guidance.pocket"])
    return context


def wait_for_writes(process, folder, count):
    """Until the process has written so many times, or has ended: moments of a run on any machine, fast or slow."""
    end, seen, writes = time.monotonic() + PATIENCE, stamps(folder), 0
    while writes < count and process.is_alive():
        assert time.monotonic() < end, "it writes nothing"
        now = stamps(folder)
        writes += now != seen
        seen = now
        time.sleep(0.01)


def stamps(folder):
    """When each file was written; one that goes while it is looked at is left out."""
    found = {}
    for parent, _, names in os.walk(folder):  # unlike rglob, it passes over a folder that is gone
        for name in names:
            with suppress(FileNotFoundError):
                found[parent, name] = Path(parent, name).stat().st_mtime_ns
    return found


def finished(folder):
    return {path.parent: path.read_text() for path in folder.glob("outputs/studies/killed/*/*/result.json")}


def test_workers_killed_at_random_moments_lose_nothing_that_was_finished(processes, tmp_path):
    chance, done, kills = random.Random(0), {}, 0
    for attempt in range(12):
        process = processes.Process(target=command, args=(tmp_path,), daemon=True)
        process.start()
        if attempt < 4:
            wait_for_writes(process, tmp_path, chance.randint(1, 8) if attempt else 1)
            process.join(chance.uniform(0.0, 0.2))
            process.kill()
        process.join(PATIENCE)
        assert process.exitcode is not None, "it does not end"
        kills += process.exitcode == -signal.SIGKILL
        now = finished(tmp_path)
        assert now.items() >= done.items()  # not even written again
        assert all(files(run) >= WHOLE for run in now)
        done = now
        if process.exitcode == 0:
            break
    assert kills >= 1
    assert len(done) == 2
    for run in done:
        assert {name for name in files(run) if not name.startswith(".")} == WHOLE
        with (run / "metrics.csv").open(newline="") as file:
            assert [row["step"] for row in csv.DictReader(file)] == ["0", "1", "2", "3", "4"]
    report = (tmp_path / "outputs" / "studies" / "killed" / "report.md").read_text()
    assert "2 finished runs, 0 unfinished." in report
