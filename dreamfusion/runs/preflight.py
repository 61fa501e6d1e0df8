"""Estimate the memory and disk space of a run before its first step, and compare them with what is free.

Each part has two numbers: at least so much is certain, and so much is expected. Too little for the first is an error,
for the second a warning. The bytes for each sample, cell and texel are measured (docs/reliability.md).
"""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dreamfusion.error import UserError
from dreamfusion.ops.memory import free_memory
from dreamfusion.ranks import own_gpu
from dreamfusion.schedule import schedule

if TYPE_CHECKING:
    from dreamfusion.runs.dream import Outputs

log = logging.getLogger(__name__)
GB = 1e9
STATES = 4  # copies of a parameter in memory: value, gradient, Adam's two moments
FILLED = 1 / 3  # share of a ray's steps that are occupied; measured 0.2 (a cat) to 0.6 (a soccer ball)


@dataclass(frozen=True)
class Need:
    """Bytes for one part of a run."""

    part: str
    least: float
    expected: float
    setting: str  # to lower


def preflight(cfg: DictConfig, folder: Path, outputs: "Outputs") -> None:
    """Warn if memory or disk space may be too small for the run in `folder`.

    Raises:
        UserError: it is certainly too small; the message has the need, what is free and the setting to lower.
    """
    resident, passing, device = memory(cfg, outputs)
    compare("memory", resident, passing, free_memory())
    if torch.cuda.is_available() and cfg.trainer.accelerator in ("auto", "gpu", "cuda"):
        index = own_gpu(cfg.trainer)  # each process of several on the first GPU would keep some of its memory
        if index < torch.cuda.device_count():  # else Lightning says so
            compare("memory of the GPU", resident, device, free_memory(f"cuda:{index}"))
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    compare(f"disk space in {there}", disk(cfg, outputs), [], shutil.disk_usage(there).free)


def compare(what: str, resident: Sequence[Need], passing: Sequence[Need], free: float) -> None:
    """Compare the sum of `resident` and the largest of `passing` with the `free` bytes.

    Raises:
        UserError: their least amounts are more than `free`.
    """
    for kind in ("least", "expected"):
        amounts = {need: getattr(need, kind) for need in (*resident, *passing)}
        total = sum(amounts[need] for need in resident) + max((amounts[need] for need in passing), default=0)
        if total <= free:
            continue
        first = max(amounts, key=lambda need: amounts[need])
        sentence = (
            f"the run needs {'at least' if kind == 'least' else 'about'} {total / GB:.3g} GB of {what} "
            f"({amounts[first] / GB:.3g} for {first.part}), and {free / GB:.3g} GB are free; lower {first.setting}"
        )
        if kind == "least":
            raise UserError(sentence)
        log.warning("%s", sentence)


def memory(cfg: DictConfig, outputs: "Outputs") -> tuple[list[Need], list[Need], list[Need]]:
    """Needs during the whole run, needs of its parts one after the other, and those of the latter on a GPU."""
    parameters, cells = parameter_bytes(cfg), number(cfg, "renderer.resolution") ** 3
    resident = [
        Need("the scene", 2 * parameters, STATES * parameters, "field.log2_table_size"),
        Need("the occupancy grid", 37 * cells, 37 * cells, "renderer.resolution"),
    ]
    side, steps = schedule(cfg.camera.size).highest, number(cfg, "renderer.steps")
    rays, seen = cfg.camera.views * side**2, 4 * outputs.preview_size**2
    step = Need("the rays of a step", 100 * rays, rays * (100 + 1000 * FILLED * steps), "camera.size or camera.views")
    previews = Need("a preview", 100 * seen, seen * (100 + 500 * FILLED * steps), "mode.preview_size")
    training = [step, previews] if outputs.preview_every else [step]
    frame, volume, texture = outputs.turntable_size**2, cfg.export.resolution**3, cfg.export.texture**2
    after = [
        Need("a frame of the turntable", 40 * frame, 100 * frame, "mode.turntable_size"),
        Need("the grid of the mesh", 4 * volume, 16 * volume, "export.resolution"),
        Need("the texture", 100 * texture, 400 * texture, "export.texture"),
    ]
    return resident, [*training, *after], training


def disk(cfg: DictConfig, outputs: "Outputs") -> list[Need]:
    """Needs of the run's files."""
    state, texels = 3 * parameter_bytes(cfg), cfg.export.texture**2
    sheets = cfg.trainer.max_steps // outputs.preview_every if outputs.preview_every else 0
    pixels = outputs.turntable_frames * outputs.turntable_size**2
    triangles = cfg.export.faces or 2 * cfg.export.resolution**2
    return [
        Need("the checkpoint", state, 3 * state, "field.log2_table_size"),  # the last two, and the next one's draft
        Need("previews", 0, 30 * sheets * outputs.preview_size**2, "mode.preview_size, or raise mode.preview_every"),
        Need("the turntable", 0, 0.4 * pixels, "mode.turntable_size or mode.turntable_frames"),
        Need("the mesh", 0, 3 * (60 * triangles + 1.5 * texels), "export.faces or export.texture"),  # also in the page
    ]


def parameter_bytes(cfg: DictConfig) -> int:
    """Of the field and the background, built without memory; 0 for what cannot be built so."""
    total = 0
    for group in ("field", "background"):
        settings = OmegaConf.create(OmegaConf.to_container(cfg[group], resolve=True))
        try:
            with torch.device("meta"):
                built = instantiate(settings)
        except InstantiationException:  # the run's own assembly reports invalid settings
            continue
        total += sum(parameter.nbytes for parameter in built.parameters())
    return total


def number(cfg: DictConfig, name: str) -> float:
    """The setting, or 0 where the option has none."""
    value = OmegaConf.select(cfg, name)
    return value if isinstance(value, int | float) else 0
