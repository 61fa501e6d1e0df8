"""Checkpoints in one file (.safetensors, .ckpt), as fine-tuned models are shared, through diffusers' converters."""

import hashlib
import logging
import os
import shutil
from pathlib import Path

from dreamfusion.guidance.hub import hub_answers
from dreamfusion.guidance.pretrained import quiet, refused

log = logging.getLogger(__name__)


def unpacked(file: Path, pipeline: str) -> Path:
    """Folder in diffusers' layout with the contents of `file`; converted once, then kept in the hub's cache folder.

    Configurations and tokenizers, a few kilobytes, are those of the base model, from the hub or its cache. A .ckpt is a
    pickle; only its tensors are read, and code in it is not executed.

    Args:
        file: a checkpoint in the format of the original code.
        pipeline: class of diffusers that reads such files.

    Raises:
        GuidanceError: the file cannot be read, or is of another kind of model.
    """
    import diffusers
    from huggingface_hub import constants

    file, stat = file.resolve(), file.stat()
    digest = hashlib.sha256(f"{file}|{stat.st_size}|{stat.st_mtime_ns}|{pipeline}".encode()).hexdigest()[:12]
    folder = Path(constants.HF_HOME) / "dreamfusion" / f"{file.stem}-{digest}"
    if folder.is_dir():
        return folder
    quiet()
    log.info("converting %s once, to %s", file, folder)
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    remedy = "; a folder in diffusers' layout or a hub id needs no conversion"
    try:
        with refused(f"guidance.model={file} cannot be read as a {pipeline}", remedy):
            read = getattr(diffusers, pipeline).from_single_file
            read(str(file), local_files_only=not hub_answers()).save_pretrained(draft, safe_serialization=True)
        try:
            draft.rename(folder)
        except OSError:  # another process was faster
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder
