"""A command killed at any write, once repeated, ends as if it had not been killed."""

import hashlib
import multiprocessing
import os
import runpy
import shutil
import signal
import sys
from contextlib import chdir
from pathlib import Path

import pytest
import torch
from launched import ROOT, files
from training import assert_same, state
from writes import Writes, rows

from dreamfusion.runs.dream import Outputs, run_in_study

SMALL = ["experiment=smoke", "trainer.max_steps=2", "mode.turntable_frames=1", "mode.score_views=1"]
SMALL += ["export.resolution=16", "export.texture=0", "export.threshold=5", "mode.preview_size=16"]
COMMAND = ["prompt=a cat", "study=killed", *SMALL, "mode.checkpoint_every=1", "mode.preview_every=2"]
PATIENCE = 900  # seconds, for a busy machine
PARTS = 3  # of the copies: no part takes long on a busy machine, and several processes can share them
WHOLE = {
    "checkpoints/last.ckpt",
    "checkpoints/previous.ckpt",
    "config.yaml",
    "index.html",
    "mesh.glb",
    "metrics.csv",
    "mesh_check.png",
    "previews/000002.png",
    "result.json",
    "run.json",
    "summary.json",
    "turntable.mp4",
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Pages without curves, and figures of the mesh from few pixels and points: they would take half of the time."""
    monkeypatch.setattr("dreamfusion.report.page.read_curves", lambda path: [])
    monkeypatch.setattr("dreamfusion.mesh.metrics.SIZE", 16)
    monkeypatch.setattr("dreamfusion.mesh.printing.POINTS", 500)


def contents(folder):
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files(folder)}


def copied(folder, copy):
    """Copy a folder into which another thread writes, again if a draft that was to be copied has been renamed."""
    while True:
        try:
            return shutil.copytree(folder, copy)
        except shutil.Error:
            shutil.rmtree(copy)


def visible(files):
    """Without the lock and the drafts of a killed command, which the next one removes."""
    return {name: value for name, value in files.items() if not Path(name).name.startswith(".")}


@pytest.mark.parametrize("part", range(PARTS))
def test_a_command_killed_at_any_write_ends_as_if_it_had_not_been_killed(part, launch, compose_config, tmp_path):
    """Copies the files before each write, as a kill would leave them, and resumes each copy with `run_in_study`.

    A whole command would spend half of its time on composing its configuration. Of copies that differ in drafts only,
    the last is resumed, which has the most of them. Each part resumes every third copy.
    """
    whole, moments = tmp_path / "whole", []
    whole.mkdir()

    def remember():
        copy = copied(whole, tmp_path / "copy")
        now = visible(contents(copy))
        if moments and moments[-1][1] == now:
            shutil.rmtree(moments.pop()[0])
        moments.append((tmp_path / "moments" / str(len(moments)), now))
        moments[-1][0].parent.mkdir(exist_ok=True)
        copy.rename(moments[-1][0])

    writes = Writes(whole, remember)
    ended = launch(whole, *COMMAND)
    writes.stop()
    assert ended.status == 0, ended.text
    (run,) = whole.glob("outputs/studies/killed/a-cat/*")
    expected, table = state(run / "checkpoints" / "last.ckpt"), rows(run)
    assert [row["step"] for row in table] == ["0", "1", "2"]
    assert len(moments) > 15
    cfg = compose_config(*COMMAND)
    outputs = Outputs(**{key: value for key, value in cfg.mode.items() if not key.startswith("_")})
    for folder, _ in moments[part::PARTS]:
        resumed = folder / run.relative_to(whole)
        done = (resumed / "result.json").is_file()
        before = contents(resumed) if done else None
        run_in_study(cfg, resumed, outputs)
        assert {name for name in files(resumed) if not name.startswith(".")} == WHOLE, folder.name
        assert rows(resumed) == table, folder.name
        assert_same(state(resumed / "checkpoints" / "last.ckpt"), expected, folder.name)
        assert not done or visible(contents(resumed)) == visible(before), folder.name  # not rewritten either


def killed(folder, write):
    """Run the command in a process that kills itself before its `write`-th write."""
    count = iter(range(1, write))

    def kill():
        if next(count, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    sys.argv = [str(ROOT / "launch.py"), *COMMAND]
    writes = Writes(folder, kill)
    with chdir(folder), Path(os.devnull).open("w", encoding="utf-8") as sys.stdout:
        runpy.run_path(sys.argv[0], run_name="__main__")
    writes.stop()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_killed_process_leaves_the_same_files_as_the_copies(launch, tmp_path):
    context = multiprocessing.get_context("fork")  # a new process would spend ten seconds on its imports
    process = context.Process(target=killed, args=(tmp_path, 12), daemon=True)
    process.start()
    process.join(PATIENCE)
    assert process.exitcode == -signal.SIGKILL
    assert not list(tmp_path.glob("outputs/studies/killed/*/*/result.json"))
    ended = launch(tmp_path, *COMMAND)
    assert ended.status == 0, ended.text
    (run,) = tmp_path.glob("outputs/studies/killed/a-cat/*")
    assert [row["step"] for row in rows(run)] == ["0", "1", "2"]
    assert {name for name in files(run) if not name.startswith(".")} == WHOLE


def test_a_finished_study_is_not_repeated(launch, tmp_path):
    command = ["-m", "prompt=a cat,a dog", "study=twice", *SMALL, "mode.preview_every=0"]
    assert launch(tmp_path, *command).status == 0
    before = {name: digest for name, digest in contents(tmp_path).items() if name.endswith(("result.json", ".ckpt"))}
    assert len(before) == 4
    assert launch(tmp_path, *command).status == 0
    assert {name: digest for name, digest in contents(tmp_path).items() if name in before} == before
    report = (tmp_path / "outputs" / "studies" / "twice" / "report.md").read_text()
    assert "2 finished runs, 0 unfinished." in report
