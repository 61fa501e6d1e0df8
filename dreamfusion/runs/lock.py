"""A lock on a run's folder, so that two processes never write to one run."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dreamfusion.error import UserError


class Locked(UserError):
    """Another process is at work in the run's folder."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of a run's folder; the system lets go when this one ends, however it ends.

    Raises:
        Locked: another one has it, such as a worker that outlived its parent.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Locked(f"another process is at work in {folder}; the same command later goes on") from error
    else:
        yield
    finally:
        os.close(handle)
