"""`mode=render`: render pictures of a run's scene at any size; needs neither guidance nor prompt."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from dreamfusion.checkpoint import TrainedScene, load_scene
from dreamfusion.error import UserError, check_positive
from dreamfusion.ops.memory import chosen_device
from dreamfusion.paths import run_of
from dreamfusion.report.picture import with_transparency, write_depth, write_rgba, write_webp
from dreamfusion.report.studio import VISIBLE, surface_normals
from dreamfusion.report.turntable import LIGHTS, seen_around, turntable
from dreamfusion.report.video import write_video
from dreamfusion.runs.find import find_checkpoint
from dreamfusion.runs.lock import locked
from dreamfusion.scene.picture import Picture
from dreamfusion.types import Cameras

log = logging.getLogger(__name__)
PICTURES = ("video", "webp", "still", "depth", "normal")


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
    """Write `pictures` (see PICTURES) into the run's folder: turntable_<size>.mp4 and .webp, and stills_<size>/."""
    check_positive("mode", frames=frames, stills=stills, size=size, fps=fps)
    if not pictures or set(pictures) - set(PICTURES):
        raise UserError(f"mode.pictures is {list(pictures)}; type some of {', '.join(PICTURES)}: mode.pictures=[webp]")
    if light not in LIGHTS:
        raise UserError(f"mode.light is {light}; type one of {', '.join(LIGHTS)}: mode.light=studio")
    checkpoint = find_checkpoint(cfg.checkpoint or "latest")
    with locked(run_of(checkpoint)):
        scene = load_scene(checkpoint, chosen_device(cfg.trainer.accelerator))
        written = []
        if "video" in pictures:
            written.append(scene.run / f"turntable_{size}.mp4")
            write_video(turntable(scene, frames, size, elevation, light), written[-1], fps)
        if "webp" in pictures:
            written.append(scene.run / f"turntable_{size}.webp")
            around = seen_around(scene, frames, size, elevation, light)
            write_webp([with_transparency(seen.color, seen.opacity) for _, seen in around], written[-1], fps)
        stills_of = [name for name in ("still", "depth", "normal") if name in pictures]
        if stills_of:
            folder = scene.run / f"stills_{size}"
            for number, (camera, seen) in enumerate(seen_around(scene, stills, size, elevation, light)):
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
            near, far = (sum(scene.camera.distance) / 2 + sign * scene.scene.radius for sign in (-1, 1))
            write_depth(np.where(seen.opacity > VISIBLE, seen.depth, 0), path, near, far)
        else:
            color = surface_normals(camera, seen) * 0.5 + 0.5 if name == "normal" else seen.color
            write_rgba(with_transparency(color, seen.opacity), path)
        written.append(path)
    return written
