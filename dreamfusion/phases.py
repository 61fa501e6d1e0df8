"""The phases of the work after training: each is shown on a terminal while it runs, and logged with its seconds."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

log = logging.getLogger(__name__)
T = TypeVar("T")


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


def _show(text: str) -> None:
    """Replace the last line of a terminal; the next line that is logged replaces it."""
    if sys.stdout.isatty():
        print(f"\r\033[K  {text}", end="\r", flush=True)
