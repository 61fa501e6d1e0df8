"""`mode=render`: pictures of a run's scene, at any size; needs neither guidance nor prompt."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig

from dreamfusion.camera.rays import cast_rays
from dreamfusion.checkpoint import Scene, find_checkpoint, load_scene
from dreamfusion.error import UserError, check_positive
from dreamfusion.image import as_uint8
from dreamfusion.report.picture import (
    Picture,
    render_picture,
    with_transparency,
    write_depth,
    write_rgba,
    write_webp,
)
from dreamfusion.report.video import write_video
from dreamfusion.scene.shading import ALBEDO, LAMBERTIAN

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


def seen_around(
    scene: Scene, count: int, size: int, elevation: float = 15.0, lit: bool = False, with_normal: bool = False
) -> Iterator[Picture]:
    """Pictures from `count` sides, from the front over the right side."""
    for azimuth in torch.linspace(0, 360, count + 1)[:-1]:
        camera = scene.camera.view(azimuth[None], elevation, size, size)
        yield render_picture(scene, camera, LAMBERTIAN if lit else ALBEDO, with_normal)


@torch.no_grad()
def turntable(scene: Scene, frames: int, size: int, elevation: float = 15.0, lit: bool = False) -> Iterator[np.ndarray]:
    """Frames (size, size, 3) uint8 once around the object over the scene's own background."""
    for azimuth, seen in zip(
        torch.linspace(0, 360, frames + 1)[:-1], seen_around(scene, frames, size, elevation, lit), strict=True
    ):
        camera = scene.camera.view(azimuth[None], elevation, size, size)
        behind = scene.background(cast_rays(camera).directions, 1, None).view(size, size, 3).numpy()
        opacity = seen.opacity[..., None]
        frame = torch.from_numpy(seen.color * opacity + behind * (1 - opacity)).permute(2, 0, 1)
        yield as_uint8(frame[None])[0]


def _write_stills(scene: Scene, seen: Picture, folder: Path, number: int, kinds: Sequence[str]) -> list[Path]:
    written = []
    for kind in kinds:
        path = folder / f"{kind}_{number:03d}.png"
        if kind == "depth":
            middle = sum(scene.camera.distance) / 2
            write_depth(
                np.where(seen.opacity > 0.5, seen.depth, 0),
                path,
                middle - scene.field.radius,
                middle + scene.field.radius,
            )
        elif kind == "normal" and seen.normal is not None:
            write_rgba(with_transparency(seen.normal * 0.5 + 0.5, seen.opacity), path)
        else:
            write_rgba(with_transparency(seen.color, seen.opacity), path)
        written.append(path)
    return written
