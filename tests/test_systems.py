"""What Windows and macOS do otherwise than Linux, each shown by a stand-in."""

import csv
import errno
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import lightning as L
import pytest
import torch
from launched import files
from results import CAT

from dreamfusion.error import file_error, typed
from dreamfusion.files import replacing
from dreamfusion.mesh.threshold import find_threshold
from dreamfusion.ops import memory
from dreamfusion.pocket.training.assemble import build_trainer
from dreamfusion.pocket.training.averaging import AveragedCheckpoints
from dreamfusion.report.template import relative_url
from dreamfusion.runs.dream import resume_command
from dreamfusion.runs.finish import _beside
from dreamfusion.runs.names import slug
from dreamfusion.runs.report import report_folder
from dreamfusion.runs.results import write_result
from dreamfusion.training.loggers import MetricsFile

RUN = r"outputs\train\a-cat\2026-11-30_10-00-00-000000"


def refused(times, method):
    """A method of Path that Windows refuses at first, because another program has the file open."""
    calls = []

    def call(self, *arguments, **options):
        calls.append(self)
        if len(calls) <= times:
            raise PermissionError(errno.EACCES, "Access is denied", str(self), None, *map(str, arguments[:1]))
        return method(self, *arguments, **options)

    return call


def test_a_file_that_a_scanner_has_open_for_a_moment_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "replace", refused(2, Path.replace))
    with replacing(tmp_path / "a.txt") as draft:
        draft.write_text("x")
    assert (tmp_path / "a.txt").read_text() == "x"
    assert files(tmp_path) == {"a.txt"}


def test_a_file_that_stays_open_elsewhere_is_named_and_unchanged(tmp_path, monkeypatch):
    (tmp_path / "mesh.glb").write_text("before")
    monkeypatch.setattr(Path, "replace", refused(1000, Path.replace))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(PermissionError) as error, replacing(tmp_path / "mesh.glb") as draft:
        draft.write_text("x")
    assert file_error(error.value).startswith(f"cannot use {tmp_path / 'mesh.glb'}: Access is denied; ")
    assert "open in another program" in file_error(error.value)
    assert (tmp_path / "mesh.glb").read_text() == "before"
    assert files(tmp_path) == {"mesh.glb"}


def test_a_spreadsheet_that_locks_the_metrics_ends_no_training_and_costs_no_row(tmp_path, monkeypatch, caplog):
    path, opened = tmp_path / "metrics.csv", Path.open
    logger = MetricsFile(path, rows_at_once=1)
    logger.log_metrics({"a": 1.0}, 0)
    logger.save()
    monkeypatch.setattr(Path, "open", lambda self, mode="r", *more, **options: locked(self, mode))
    for step in range(1, 4):
        logger.log_metrics({"a": 1.0, **({"b": 2.0} if step == 2 else {})}, step)
    logger.save()
    with pytest.raises(PermissionError):
        logger.finalize("success")
    monkeypatch.setattr(Path, "open", opened)
    logger.finalize("success")
    with path.open(newline="", encoding="utf-8") as file:
        assert [(row["step"], row["b"]) for row in csv.DictReader(file)] == [
            ("0", ""),
            ("1", ""),
            ("2", "2.0"),
            ("3", ""),
        ]
    assert len(caplog.messages) == 1


def locked(path, mode):
    raise PermissionError(errno.EACCES, "Permission denied", str(path))


@pytest.mark.parametrize("text", ["aux", "NUL", "con", "com1", "lpt9", "prn!"])
def test_a_folder_has_no_name_that_windows_keeps_for_devices(text):
    assert slug(text) != slug(f"{text}x")
    assert slug(text).partition("-")[2]


def test_other_names_stay_as_they_are():
    assert [slug(text) for text in ("a con", "console", "com", "com10")] == ["a-con", "console", "com", "com10"]


def words(text):
    """A command line of Windows as its programs read it, where it has no quotes in quotes."""
    return [word.strip('"') for word in shlex.split(text.replace("\\", "\\\\"), posix=True)]


@pytest.mark.parametrize("run", [RUN, r"C:\Users\Zoë Müller\runs\a-cat"])
def test_windows_shells_read_the_commands_that_are_proposed(monkeypatch, run):
    """cmd takes a single quote for a part of the word."""
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(sys, "argv", ["launch.py"])
    assert "'" not in typed("checkpoint", run) + resume_command(run)
    assert words(typed("checkpoint", run)) == [f"checkpoint={run}"]
    assert words(resume_command(run))[-1] == f"checkpoint={run}"


def test_python_is_python_whatever_the_case_of_its_suffix(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["launch.py"])
    monkeypatch.setattr(os.path, "normcase", str.lower)
    monkeypatch.setattr(sys, "executable", "/v/Scripts/python.exe")
    monkeypatch.setattr("shutil.which", lambda name: "/v/Scripts/python.EXE")
    assert resume_command(Path("outputs/train/a-cat/x")).startswith("python launch.py ")


def test_a_page_on_another_drive_links_to_its_runs(monkeypatch, tmp_path):
    def apart(path, start):
        raise ValueError("path is on mount 'C:', start on mount 'D:'")

    monkeypatch.setattr(os.path, "relpath", apart)
    assert relative_url(tmp_path / "a b" / "index.html", tmp_path) == (tmp_path / "a b" / "index.html").as_uri()


def test_the_table_of_a_study_has_the_same_paths_on_every_system(monkeypatch, tmp_path):
    write_result(CAT, tmp_path / "a-cat" / "0")
    relpath = os.path.relpath
    monkeypatch.setattr(os.path, "relpath", lambda *paths: relpath(*paths).replace("/", "\\"))
    monkeypatch.setattr(Path, "as_posix", lambda self: str(self).replace("\\", "/"))
    report_folder("pets", tmp_path)
    assert "](a-cat/0/" in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "a-cat/0" in (tmp_path / "report.csv").read_text(encoding="utf-8")


def test_a_signal_is_noticed_while_a_thread_is_awaited():
    """Windows notices no Ctrl-C in a wait without an end."""
    waits, join = [], threading.Thread.join

    class Patient(threading.Thread):
        def join(self, timeout=None):
            waits.append(timeout)
            join(self, timeout)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "Thread", Patient)
        with _beside(lambda: time.sleep(0.3)):
            pass
    assert waits
    assert None not in waits


@pytest.fixture
def apple(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_an_apple_gpu_is_used_only_when_asked_for(apple, caplog):
    """It has no kernels, and no run has been made there."""
    assert [memory.chosen_device(name).type for name in ("auto", "mps", "gpu", "cpu")] == ["cpu", "mps", "mps", "cpu"]
    assert [memory.accelerator(name) for name in ("auto", "mps", "gpu", "cpu")] == ["cpu", "mps", "gpu", "cpu"]


def test_lightning_takes_the_device_that_the_run_does(apple):
    trainer = L.Trainer(accelerator=memory.accelerator("auto"), devices=1, logger=False, enable_checkpointing=False)
    assert trainer.strategy.root_device.type == "cpu"


def test_the_training_of_a_prior_takes_no_apple_gpu(apple, tmp_path):
    averaging = AveragedCheckpoints(0.9, 0, tmp_path / "last.ckpt", 4.0)
    trainer = build_trainer(tmp_path, averaging, 0, 10, 1, None, "32-true")
    assert trainer.strategy.root_device.type == "cpu"


def test_the_threshold_asks_a_gpu_for_no_float64(monkeypatch):
    """Apple's GPUs have none."""
    order, double, cpu = [], torch.Tensor.double, torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "double", lambda self: order.append("double") or double(self))
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: order.append("cpu") or cpu(self))
    find_threshold(torch.tensor([2.0, 1.0, 0.0]), torch.tensor([1.0, 1.0, 0.0]))
    assert order[0] == "cpu"


def test_signals_without_sighup(monkeypatch):
    """Windows has no SIGHUP."""
    code = "import signal; del signal.SIGHUP; from dreamfusion import signals; print([int(n) for n in signals.ENDING])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == str([int(signal.SIGINT), int(signal.SIGTERM)])
