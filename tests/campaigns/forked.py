"""A command in a fork of this process, which has imported what the command needs: a tenth of a new interpreter's time.

The parent computes nothing with torch before, so that a fork has no thread too few.
"""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from launched import launched

import dreamfusion.guidance.pocket
import dreamfusion.mode.train
import dreamfusion.runs.finish  # noqa: F401


class Command:
    """`python launch.py ...` in `folder`, begun at once; `first` is called in its process before the command."""

    def __init__(self, folder: Path, *arguments: str, first: Callable[[], object] = lambda: None) -> None:
        sys.stdout.flush()
        self._output = folder / f"{len(list(folder.glob('*.txt')))}.txt"
        self._process = os.fork()
        if self._process == 0:
            self._run(folder, arguments, first)

    def _run(self, folder: Path, arguments: tuple[str, ...], first: Callable[[], object]) -> None:
        status = 1
        try:
            first()
            ended = launched(folder, *arguments)
            self._output.write_text(ended.text)
            status = int(ended.status)
        except BaseException:
            self._output.write_text(traceback.format_exc())
        finally:
            os._exit(status)

    def kill(self) -> None:
        os.kill(self._process, signal.SIGKILL)

    def end(self) -> tuple[int, str]:
        """Wait for the command; its exit status, negative after a signal, and its output unless it was killed."""
        _, status = os.waitpid(self._process, 0)
        return os.waitstatus_to_exitcode(status), self._output.read_text() if self._output.is_file() else ""
