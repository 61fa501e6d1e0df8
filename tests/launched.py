"""Shared by the tests of the modes: a difficult prompt, and a command in this process."""

import io
import logging
import runpy
import signal
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from dreamfusion.signals import ENDING

ROOT = Path(__file__).parents[1]
PROMPT = """a cat's "${hat}", (🐈) = ../../<b>x</b>\\"""
SLUG = "a-cats-hat-b-x-b"
# A whole run, from prompt to page, in half the time of experiment=smoke: for tests of what is around a training.
# Rows of the metrics come at the end only, so that the page has no curves.
QUICK = (
    "experiment=smoke", "mode.preview_every=0", "mode.turntable_frames=1", "export.resolution=16", "export.texture=0",
    "export.threshold=5", "trainer.log_every_n_steps=100",
)  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """How a command ended and what it said."""

    status: object
    text: str


@dataclass(frozen=True)
class Finished:
    """A smoke run: the folder it was typed in, the run's own, and what was printed."""

    folder: Path
    run: Path
    text: str


def files(folder):
    """Everything under a folder, as relative paths."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def launched(folder, *arguments):
    """Run `python launch.py ...` in this process, with `folder` as the working directory."""
    root, argv = logging.getLogger(), sys.argv
    handlers, level, said = list(root.handlers), root.level, io.StringIO()
    signals = {number: signal.getsignal(number) for number in ENDING}
    sys.argv = [str(ROOT / "launch.py"), *arguments]
    try:
        with chdir(folder), redirect_stdout(said), redirect_stderr(said):
            try:
                runpy.run_path(sys.argv[0], run_name="__main__")
                status = 0
            except SystemExit as end:
                status = end.code or 0
                if isinstance(status, str):  # as Python does with a message
                    print(status, file=sys.stderr)
                    status = 1
    finally:
        sys.argv, HydraConfig.instance().cfg = argv, None
        root.handlers, root.level = handlers, level
        for number, handler in signals.items():
            signal.signal(number, handler)
    return Ended(status, said.getvalue())
