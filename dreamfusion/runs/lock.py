"""A lock on a run's folder, so that two processes never write to one run."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dreamfusion.error import UserError
from dreamfusion.files import sweep


class Locked(UserError):
    """Another process has locked the run's folder."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a run's folder, and remove the temporary files that killed processes left there.

    The operating system releases the lock when this process ends, even if killed.

    Raises:
        Locked: another process holds the lock, such as a worker that outlived its parent.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Locked(f"another process is running in {folder}; repeat the command later to resume") from error
    else:
        sweep(folder)
        yield
    finally:
        os.close(handle)
