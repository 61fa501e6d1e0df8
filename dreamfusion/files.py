"""Atomic file writes: write to a temporary file in the same folder, then rename it."""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from dreamfusion.error import UserError


def write_json(path: Path, content: object, indent: int | None = 1) -> None:
    """Replace `path` with `content` as JSON.

    Raises:
        UserError: a number in it is not finite, which JSON cannot hold.
    """
    check_finite(content)
    text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False, default=str)
    with replacing(path) as draft:
        draft.write_text(text + "\n", encoding="utf-8")


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
