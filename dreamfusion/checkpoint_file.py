"""Checkpoint files: replaced as a whole, verified when read, and kept until the next one is on disk.

`torch.save` writes a zip archive. Its comment, the last bytes of the file, is the SHA-256 of all bytes before. Archives
without a comment, of earlier versions, are verified by the CRC-32 of each member (tensors and the pickled rest), which
`torch.load` does not compare.
"""

import hashlib
import io
import logging
import os
import pickle
import shutil
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from dreamfusion.error import CheckpointError, typed
from dreamfusion.files import flush, replacing
from dreamfusion.paths import LAST, PREVIOUS

log = logging.getLogger(__name__)
DIGEST = 64  # hexadecimal digits
LENGTH = DIGEST.to_bytes(2, "little")
PLAIN = (str, int, float, bool, bytes, type(None))
UNREADABLE = (pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, EOFError, OSError)
UNREADABLE_BY_TORCH = (RuntimeError, LookupError, ValueError, TypeError, AttributeError)


def read_verified(path: Path) -> Any:
    """Content of a file that `torch.save` wrote, plain data only, with tensors on the CPU.

    Raises:
        CheckpointError: the file is damaged, or contains other than data; offers the checkpoint before it.
    """
    try:
        data = path.read_bytes()
        _verify(data)
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (*UNREADABLE, *UNREADABLE_BY_TORCH) as error:
        before = path.with_name(PREVIOUS)
        is_other = path != before and before.is_file()
        offer = f"; type {typed('checkpoint', before)} for the one before it" if is_other else ""
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}); is the file complete?{offer}"
        ) from error


def newest_readable(folder: Path) -> Path | None:
    """The last checkpoint in a folder, or the one before it if the last is damaged, with a warning; None of no files.

    Raises:
        CheckpointError: there are checkpoints, and none can be read.
    """
    found = [folder / name for name in (LAST, PREVIOUS) if (folder / name).is_file()]
    for path in found:
        try:
            read_verified(path)
            return path
        except CheckpointError as error:
            log.warning("%s", str(error).partition(";")[0])
    if found:
        raise CheckpointError(f"no checkpoint in {folder} can be read; move the folder away to begin again")
    return None


def check_readable(content: object, name: str) -> None:
    """Raises: CheckpointError: content that `read_verified` would refuse; the message has its dotted name."""
    if type(content) in (dict, OrderedDict):
        for key, value in content.items():  # type: ignore[attr-defined]
            check_readable(value, f"{name}.{key}")
    elif type(content) in (list, tuple):
        for index, value in enumerate(content):  # type: ignore[arg-type]
            check_readable(value, f"{name}.{index}")
    elif type(content) not in PLAIN and not isinstance(content, torch.Tensor):
        try:
            data = io.BytesIO()
            torch.save(content, data)
            torch.load(io.BytesIO(data.getvalue()), weights_only=True)
        except Exception as error:  # whatever an object raises that is pickled
            raise CheckpointError(
                f"{name} is a {type(content).__name__}, with which no checkpoint can be read; make it a number, text, "
                "a tensor, or a list or dict of these"
            ) from error


def write_whole(content: Any, path: Path, keep: bool) -> None:
    """Replace a checkpoint atomically; the one before it is kept as PREVIOUS if `keep` is true.

    The content is serialised in memory first: no temporary folder is needed, and the size is known if the disk is full.

    Raises:
        OSError: the file cannot be written; the last checkpoint is unchanged.
    """
    data = io.BytesIO()
    torch.save(content, data)
    data.seek(-2, io.SEEK_END)  # the length of the comment ends the archive
    data.write(LENGTH)
    with data.getbuffer() as whole:
        digest = _digest(whole)
    data.write(digest)
    # Released also after an error: with a buffer that a traceback holds, Python 3.12.1 crashes when it collects both.
    with data.getbuffer() as whole, replacing(path, len(whole)) as draft:
        draft.write_bytes(whole)
        flush(draft)
        if keep:
            with replacing(path.with_name(PREVIOUS)) as second:
                _link(path, second)


def _digest(data: bytes | memoryview) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


def _verify(data: bytes) -> None:
    """Raises: zipfile.BadZipFile: a checkpoint as bytes is damaged."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise zipfile.BadZipFile("a member is compressed, and may be of any size")
        comment = archive.comment
        if not comment and data.endswith(bytes(2)) and archive.testzip() is None:
            return
    if data[-DIGEST - 2 : -DIGEST] != LENGTH or comment != _digest(memoryview(data)[:-DIGEST]):
        raise zipfile.BadZipFile("the checksum differs")


def _link(path: Path, second: Path) -> None:
    """Give a file a second name, or a copy where the file system has no links."""
    second.unlink()  # the empty draft
    try:
        os.link(path, second)
    except OSError:
        shutil.copyfile(path, second)


class CheckpointFiles(TorchCheckpointIO):
    """Makes a Lightning trainer read and write checkpoints by the two functions above.

    A checkpoint that this process has neither written nor read may be damaged, and never becomes PREVIOUS.
    """

    def __init__(self) -> None:
        self._good: set[Path] = set()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        check_readable(checkpoint, "checkpoint")
        write_whole(checkpoint, Path(path), keep=Path(path) in self._good and Path(path).is_file())
        self._good.add(Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        content: dict[str, Any] = read_verified(Path(path))
        self._good.add(Path(path))
        return content
