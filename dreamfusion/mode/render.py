"""`mode=render`: pictures of a run's scene, at any size; needs neither guidance nor prompt."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from dreamfusion.checkpoint import TrainedScene, load_scene
from dreamfusion.error import UserError, check_positive
from dreamfusion.report.picture import with_transparency, write_depth, write_rgba, write_webp
from dreamfusion.report.turntable import seen_around, turntable
from dreamfusion.report.video import write_video
from dreamfusion.runs.find import find_checkpoint
from dreamfusion.scene.picture import Picture

log = logging.getLogger(__name__)
KINDS = ("video", "webp", "still", "depth", "normal")


def run(
    cfg: DictConfig,
    pictures: Sequence[str],
    frames: int,
    stills: int,
    size: int,
    elevation: float,
    fps: int,
    lit: bool,
) -> list[Path]:
    """Write the `pictures` that are asked for (see KINDS) into the run's folder: turntable_<size>.mp4 and .webp, and
    the stills from as many sides under stills_<size>/."""
    check_positive("mode", frames=frames, stills=stills, size=size, fps=fps)
    unknown = [kind for kind in pictures if kind not in KINDS]
    if unknown or not pictures:
        raise UserError(f"mode.pictures is {list(pictures)}; it lists some of {', '.join(KINDS)}: mode.pictures=[webp]")
    scene = load_scene(find_checkpoint(cfg.checkpoint or "latest"))
    written = []
    if "video" in pictures:
        written.append(scene.run / f"turntable_{size}.mp4")
        write_video(turntable(scene, frames, size, elevation, lit), written[-1], fps)
    if "webp" in pictures:
        written.append(scene.run / f"turntable_{size}.webp")
        around = seen_around(scene, frames, size, elevation, lit)
        write_webp([with_transparency(seen.color, seen.opacity) for seen in around], written[-1], fps)
    kinds = [kind for kind in ("still", "depth", "normal") if kind in pictures]
    if kinds:
        for number, seen in enumerate(seen_around(scene, stills, size, elevation, lit, "normal" in kinds)):
            written += _write_stills(scene, seen, scene.run / f"stills_{size}", number, kinds)
    for path in written:
        log.info("%s", path)
    return written


def _write_stills(scene: TrainedScene, seen: Picture, folder: Path, number: int, kinds: Sequence[str]) -> list[Path]:
    written = []
    for kind in kinds:
        path = folder / f"{kind}_{number:03d}.png"
        if kind == "depth":
            middle = sum(scene.camera.distance) / 2
            write_depth(
                np.where(seen.opacity > 0.5, seen.depth, 0),
                path,
                middle - scene.scene.radius,
                middle + scene.scene.radius,
            )
        elif kind == "normal" and seen.normal is not None:
            write_rgba(with_transparency(seen.normal * 0.5 + 0.5, seen.opacity), path)
        else:
            write_rgba(with_transparency(seen.color, seen.opacity), path)
        written.append(path)
    return written
