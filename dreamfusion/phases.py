"""The phases of the work after training: each is shown on a terminal while it runs, and logged with its seconds."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

log = logging.getLogger(__name__)
T = TypeVar("T")
_shared = False  # other runs write to the same terminal


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Show the name while the block runs, and log it with the time at its end."""
    started = time.monotonic()
    _show(f"{name} ...")
    yield
    log.info("  %-9s %5.1f s", name, time.monotonic() - started)


def counted(items: Iterable[T], name: str, total: int) -> Iterator[T]:
    """The items; the count is shown as they are taken."""
    for number, item in enumerate(items, start=1):
        yield item
        _show(f"{name} {number}/{total}")


def share_terminal(shared: bool) -> None:
    """Let this process write whole lines only, or (False) replace the last line of a terminal too."""
    global _shared
    _shared = shared


def is_own_terminal() -> bool:
    """Whether the last line of the output can be replaced: a terminal that no other run writes to."""
    return sys.stdout.isatty() and not _shared


def _show(text: str) -> None:
    """Replace the last line of a terminal; the next line that is logged replaces it."""
    if is_own_terminal():
        print(f"\r\033[K  {text}", end="\r", flush=True)
