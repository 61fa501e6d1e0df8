"""Signals that end a command: Ctrl-C, SIGTERM (schedulers, containers) and SIGHUP (a closed terminal).

The exit status is that of shells: 128 + the number of the signal. A second signal ends the process at once.
"""

import os
import signal
import stat
import threading
from contextlib import suppress
from types import FrameType
from typing import Any, Self

ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
STDOUT, STDERR = 1, 2  # file descriptors


def end_on_signals() -> None:
    """Raise at the first signal: KeyboardInterrupt for Ctrl-C, else SystemExit, so that the run can say how to resume.

    Leaves signals alone that are ignored (nohup) or have a handler already (submitit's SIGTERM).
    """
    for number in _available():
        signal.signal(number, _raise)


class Stop:
    """A context in which the first signal is only noted, as `number`, with a message on stderr."""

    def __init__(self, message: str) -> None:
        self.message = message
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    @property
    def status(self) -> int:
        """The exit status after the signal."""
        return 128 + (self.number or signal.SIGINT)

    def __enter__(self) -> Self:
        self._before = {number: signal.getsignal(number) for number in _available()}
        self.install()
        return self

    def install(self) -> None:
        """Install the handlers, again if a library has replaced them."""
        for number in self._before:
            signal.signal(number, self._note)

    def __exit__(self, *error: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, _end_at_once if self.number is not None and before is _raise else before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            _end_at_once(number, frame)
        self.number = number
        _leave_closed_terminal(number)
        with suppress(OSError):  # a closed pipe
            # Not sys.stderr, which is not reentrant: the signal may interrupt its own write.
            os.write(STDERR, f"\n{self.message}\n".encode())


def _available() -> list[int]:
    """The signals of ENDING whose handler may be replaced: none outside of the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return []
    replaceable = (signal.SIG_DFL, signal.default_int_handler, _raise)
    return [number for number in ENDING if signal.getsignal(number) in replaceable]


def _raise(number: int, frame: FrameType | None) -> None:
    for each in ENDING:
        if signal.getsignal(each) is _raise:
            signal.signal(each, _end_at_once)
    _leave_closed_terminal(number)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _leave_closed_terminal(number: int) -> None:
    """After SIGHUP, discard all output to the terminal: writing to it would raise errors from now on."""
    if number in (signal.SIGINT, signal.SIGTERM):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for output in (STDOUT, STDERR):
        if stat.S_ISCHR(os.fstat(output).st_mode):
            os.dup2(nowhere, output)
    os.close(nowhere)


def _end_at_once(number: int, frame: FrameType | None) -> None:
    """End without cleaning up; the next command at the run removes temporary files."""
    os._exit(128 + number)
