"""The program in a separate process: help, Ctrl-C, and a logger."""

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from launched import QUICK, ROOT, files

CONF, LAUNCH = ROOT / "conf", ROOT / "launch.py"
PATIENCE = 900  # seconds, for a busy machine


def test_help_is_quick_and_shows_how_to_begin(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", LAUNCH, "--help"], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    imported = set(re.findall(r"\| +(\w+)$", ended.stderr, re.MULTILINE))
    assert "hydra" in imported
    assert not imported & {"torch", "lightning", "diffusers", "transformers", "numpy"}
    assert 'python launch.py prompt="a cat"' in ended.stdout
    groups = {path.name for path in CONF.iterdir() if path.is_dir()} - {"hydra"}
    assert groups <= {line.split(":")[0] for line in ended.stdout.splitlines()}
    assert max(map(len, ended.stdout.splitlines())) <= 120
    assert not list(tmp_path.iterdir())


def test_ctrl_c_saves_and_the_printed_command_resumes(launch, tmp_path):
    settings = [*QUICK, "trainer.max_steps=100000", "trainer.log_every_n_steps=1"]
    with (tmp_path / "log").open("w+") as log:
        command = [sys.executable, LAUNCH, "prompt=a cat", *settings]
        with ended_at_last(subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT)) as process:
            wait_for(lambda: list(tmp_path.glob("outputs/train/a-cat/*/metrics.csv")), process)
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 130
        log.seek(0)
        said = log.read()
    assert "Traceback" not in said
    stopped = int(re.search(r"stopped at step (\d+) of 100000; to resume:", said)[1])
    (run,) = tmp_path.glob("outputs/train/a-cat/*")
    assert (run / "checkpoints" / "last.ckpt").is_file()
    assert not (run / "mesh.glb").exists()

    python, program, *arguments = shlex.split(said.strip().splitlines()[-1])
    assert (Path(shutil.which(python)), Path(program)) == (Path(sys.executable), LAUNCH)
    assert arguments == [f"checkpoint={run.relative_to(tmp_path)}"]
    ended = launch(tmp_path, *arguments, f"trainer.max_steps={stopped + 1}")
    assert ended.status == 0, ended.text
    assert f"a cat: {stopped + 1} steps" in ended.text
    assert (run / "mesh.glb").is_file()


@contextmanager
def ended_at_last(process):
    """End the process with the test."""
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(condition, process):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, "it ended too early"
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


def test_tensorboard_writes_beside_the_csv(launch, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    ended = launch(tmp_path, "prompt=a cat", "logger=tensorboard", *QUICK)
    assert ended.status == 0, ended.text
    (run,) = tmp_path.glob("outputs/train/a-cat/*")
    assert any(name.startswith("tensorboard/events.out") for name in files(run))
    assert (run / "metrics.csv").is_file()
    written = accumulator.EventAccumulator(str(run / "tensorboard")).Reload()
    scores = json.loads((run / "result.json").read_text())["scores"]
    for name, score in scores.items():
        assert [(one.step, one.value) for one in written.Scalars(name)] == [(2, pytest.approx(score, abs=1e-4))]


def test_a_folder_with_a_run_is_not_taken_for_another_one(launch, tmp_path):
    """Its name has a blank: the command that goes on with it is quoted."""
    first = launch(tmp_path, *QUICK, "prompt=a cat", "hydra.run.dir=my run")
    assert first.status == 0, first.text
    before = {name: (tmp_path / "my run" / name).read_bytes() for name in ("result.json", "checkpoints/last.ckpt")}
    again = launch(tmp_path, *QUICK, "prompt=a dog", "hydra.run.dir=my run")
    assert again.status == 1
    assert "there is a run in my run already (result.json); type 'checkpoint=my run' to resume it" in again.text
    assert before == {name: (tmp_path / "my run" / name).read_bytes() for name in before}
    (tmp_path / "my run" / "previews").mkdir(exist_ok=True)
    (tmp_path / "my run" / "previews" / "000099.png").touch()
    replaced = launch(tmp_path, *QUICK, "prompt=a dog", "hydra.run.dir=my run", "resume=false")
    assert replaced.status == 0, replaced.text
    assert not (tmp_path / "my run" / "previews" / "000099.png").exists()
