"""Atomic file writes: write to a temporary file in the same folder, then rename it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Temporary file beside `path`, with the same suffix; renamed to `path` on success and removed on failure.

    Creates the folder. The temporary file is in the same folder because a rename is atomic within one file system only.
    Content and rename are flushed to disk when the block ends, so that after a power failure no later write exists
    without this one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield draft
        flush(draft)
        draft.replace(path)
        if os.name == "posix":  # other systems cannot open a folder
            flush(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Flush a file or a folder to disk (fsync)."""
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
