"""`mode=render`: render pictures of one or many runs' scenes at any size; needs neither guidance nor prompt."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig

from dreamfusion.checkpoint import TrainedScene, load_scene
from dreamfusion.error import UserError, check_positive
from dreamfusion.ops.memory import chosen_device
from dreamfusion.paths import run_of
from dreamfusion.report.picture import with_transparency, write_depth, write_rgba, write_webp
from dreamfusion.report.studio import VISIBLE, surface_normals
from dreamfusion.report.turntable import LIGHTS, seen_around, turntable
from dreamfusion.report.video import write_video
from dreamfusion.runs.find import over_runs
from dreamfusion.runs.lock import locked
from dreamfusion.scene.picture import Picture
from dreamfusion.types import Cameras

log = logging.getLogger(__name__)
PICTURES = ("video", "webp", "still", "depth", "normal")


@dataclass(frozen=True)
class View:
    """How the pictures are taken."""

    frames: int  # of a turntable
    stills: int  # azimuths of stills, depth and normals
    size: int  # pixels a side
    elevation: float  # degrees
    fps: int
    light: str  # see LIGHTS


def run(
    cfg: DictConfig,
    pictures: Sequence[str],
    frames: int,
    stills: int,
    size: int,
    elevation: float,
    fps: int,
    light: str,
) -> list[Path]:
    """Write `pictures` (see PICTURES) into the folder of the run, or of all runs that `run` or `study` names:
    turntable_<size>.mp4 and .webp, and stills_<size>/.

    Skips runs that fail, with a warning, unless there is only one.
    """
    check_positive("mode", frames=frames, stills=stills, size=size, fps=fps)
    if not pictures or set(pictures) - set(PICTURES):
        raise UserError(f"mode.pictures is {list(pictures)}; type some of {', '.join(PICTURES)}: mode.pictures=[webp]")
    if light not in LIGHTS:
        raise UserError(f"mode.light is {light}; type one of {', '.join(LIGHTS)}: mode.light=studio")
    view, device = View(frames, stills, size, elevation, fps, light), chosen_device(cfg.trainer.accelerator)
    written = over_runs(cfg, lambda checkpoint: _render_one(checkpoint, device, pictures, view), "no pictures")
    return [path for paths in written for path in paths]


def _render_one(checkpoint: Path, device: torch.device, pictures: Sequence[str], view: View) -> list[Path]:
    written = []
    with locked(run_of(checkpoint)):
        scene = load_scene(checkpoint, device)
        around = (view.frames, view.size, view.elevation, view.light)
        if "video" in pictures:
            written.append(scene.run / f"turntable_{view.size}.mp4")
            write_video(turntable(scene, *around), written[-1], view.fps)
        if "webp" in pictures:
            written.append(scene.run / f"turntable_{view.size}.webp")
            shown = (with_transparency(seen.color, seen.opacity) for _, seen in seen_around(scene, *around))
            write_webp(list(shown), written[-1], view.fps)
        stills_of = [name for name in ("still", "depth", "normal") if name in pictures]
        if stills_of:
            folder = scene.run / f"stills_{view.size}"
            seen_from = seen_around(scene, view.stills, view.size, view.elevation, view.light)
            for number, (camera, seen) in enumerate(seen_from):
                written += _write_stills(scene, camera, seen, folder, number, stills_of)
    for path in written:
        log.info("%s", path)
    return written


def _write_stills(
    scene: TrainedScene, camera: Cameras, seen: Picture, folder: Path, number: int, names: Sequence[str]
) -> list[Path]:
    written = []
    for name in names:
        path = folder / f"{name}_{number:03d}.png"
        if name == "depth":
            near, far = (float(camera.distance) + sign * scene.scene.radius for sign in (-1, 1))
            write_depth(np.where(seen.opacity > VISIBLE, seen.depth, 0), path, near, far)
        else:
            color = surface_normals(camera, seen) * 0.5 + 0.5 if name == "normal" else seen.color
            write_rgba(with_transparency(color, seen.opacity), path)
        written.append(path)
    return written
