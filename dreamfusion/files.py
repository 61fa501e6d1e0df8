"""Files appear whole or not at all: every writer of this package writes beside its target and renames."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary sibling of `path` (same suffix) to write to; it becomes `path` on success and is removed on failure.

    Makes the folder. A sibling, because a rename is atomic within one file system only. Content and rename are on the
    disk when the block ends, so that what is written next cannot outlive them in a power failure.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield draft
        flush(draft)
        draft.replace(path)
        if os.name == "posix":  # elsewhere a folder cannot be opened
            flush(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Have the system write a file or a folder to its disk."""
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
