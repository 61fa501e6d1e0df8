"""Atomic file writes: write to a temporary file in the same folder, then rename it."""

import errno
import json
import math
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from dreamfusion.error import UserError

DRAFT = re.compile(r"\..+\.\d{18}\.draft(\.[^.]*)?")  # names of the temporary files of `replacing`, of no others
LOCK = ".lock"  # the file in a run's folder that exists while the run is at work, or was killed
FULL = (errno.ENOSPC, errno.EDQUOT)
WAITS = (0.05, 0.1, 0.2, 0.4, 0.8)  # seconds before another attempt to replace a file that Windows refuses


def write_json(path: Path, content: object, indent: int | None = 1) -> None:
    """Replace `path` with `content` as JSON.

    Raises:
        UserError: a number in it is not finite, which JSON cannot hold.
    """
    check_finite(content)
    text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False, default=str)
    with replacing(path) as draft:
        draft.write_text(text + "\n", encoding="utf-8")


def read_figures(path: Path) -> dict[str, Any]:
    """The numbers and nulls by name in a JSON file; without those that are not finite, empty for a broken file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=str)
        named = content.items() if isinstance(content, dict) else ()
        return {k: v for k, v in named if v is None or (isinstance(v, int | float) and math.isfinite(v))}
    except (OSError, ValueError, OverflowError, RecursionError):
        return {}


def check_finite(content: object, name: str = "") -> None:
    """Raises: UserError: a number in nested containers is not finite; the message has its dotted name."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            check_finite(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, Sequence) and not isinstance(content, str):
        for index, value in enumerate(content):
            check_finite(value, f"{name}.{index}" if name else str(index))
    elif isinstance(content, float) and not math.isfinite(content):
        raise UserError(
            f"{name} is {content}, so there is no usable result; the scene or the prior's predictions are not finite: "
            "lower optimizer.learning_rates or distillation.guidance_scale, or set guidance.dtype=float32"
        )


@contextmanager
def replacing(path: Path, size: int = 0) -> Iterator[Path]:
    """Temporary file beside `path`, with the same suffix; renamed to `path` on success and removed on failure.

    Creates the folder. The temporary file is in the same folder because a rename is atomic within one file system only.
    Its name cannot be guessed and it is a new file: nobody else who may write to the folder can put a link there first.
    Content and rename are flushed to disk when the block ends, so that after a power failure no later write exists
    without this one.

    Args:
        path: the file to write.
        size: its future size in bytes if known, for the message of a full disk.

    Raises:
        OSError: the file cannot be written; the error of a full disk names the folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.stem}.{secrets.randbelow(10**18):018}.draft{path.suffix}")
    try:
        draft.touch(exist_ok=False)
        yield draft
        flush(draft)
        _rename(draft, path)
        if os.name == "posix":  # other systems cannot open a folder
            flush(path.parent)
    except OSError as error:
        if not is_full(error):
            raise
        written = draft.stat().st_size if draft.is_file() else 0
        draft.unlink(missing_ok=True)  # before the free space is measured
        raise full_disk(error, path, max(size, written)) from error
    finally:
        draft.unlink(missing_ok=True)


def _rename(draft: Path, path: Path) -> None:
    """Replace `path` by `draft`, which Windows refuses while a virus scanner, an indexer or a browser reads either."""
    for wait in WAITS:
        try:
            draft.replace(path)
            return
        except PermissionError:
            time.sleep(wait)
    draft.replace(path)


@contextmanager
def appending(path: Path) -> Iterator[TextIO]:
    """Open an existing text file to append to it; flushed to disk on success, and cut to its former size on failure.

    Raises:
        OSError: the file cannot be written; the error of a full disk names the folder.
    """
    before = path.stat().st_size
    try:
        with path.open("a", newline="", encoding="utf-8") as file:
            yield file
        flush(path)
    except OSError as error:
        os.truncate(path, before)
        if not is_full(error):
            raise
        raise full_disk(error, path) from error


def is_full(error: Exception) -> bool:
    """Whether it says that the disk, or the user's share of it, is full: then no other file can be written."""
    return isinstance(error, OSError) and error.errno in FULL


def full_disk(error: OSError, path: Path, needed: int = 0) -> OSError:
    """The error of a full disk with the folder of `path`, which the error of a write lacks, and the needed bytes."""
    free = shutil.disk_usage(path.parent).free / 1e6
    reason = f"the disk is full: {free:.1f} MB are free" + (
        f", {path.name} needs at least {needed / 1e6:.1f} MB" if needed else ""
    )
    return OSError(error.errno, reason, str(path.parent))


def flush(path: Path) -> None:
    """Flush a file or a folder to disk (fsync)."""
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(folder: Path) -> None:
    """Remove what killed processes left in a run's folder and its subfolders, except for those of runs at work."""
    for path in [*folder.glob(".*"), *folder.glob("*/.*")]:
        other = path.parent != folder and (path.parent / LOCK).exists()  # as the second stage of experiment=refine
        if DRAFT.fullmatch(path.name) and path.is_file() and not other:
            path.unlink(missing_ok=True)
