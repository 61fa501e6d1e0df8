"""A lock on a run's folder, so that two processes never write to one run."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from dreamfusion.error import UserError
from dreamfusion.files import LOCK, sweep


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
    path = folder.absolute() / LOCK
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise Locked(f"another process is running in {folder}; repeat the command later to resume") from None
    try:
        sweep(folder)
        yield
    finally:
        with suppress(OSError):  # Windows removes no open file
            path.unlink()  # while locked: a process that waits with the old file notices that it has no name any more
        lock.release()
