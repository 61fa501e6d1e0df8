"""`mode=render`: a turntable of a run's scene, at any size; needs neither guidance nor prompt."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig

from dreamfusion.checkpoint import Scene, find_checkpoint, load_scene
from dreamfusion.error import check_positive
from dreamfusion.export.video import as_uint8, write_video

log = logging.getLogger(__name__)


def run(cfg: DictConfig, frames: int, size: int, elevation: float, fps: int) -> Path:
    """Write turntable_<size>.mp4 into the run's folder."""
    check_positive("mode", frames=frames, size=size, fps=fps)
    scene = load_scene(find_checkpoint(cfg.checkpoint or "latest"))
    path = scene.run / f"turntable_{size}.mp4"
    write_video(turntable(scene, frames, size, elevation), path, fps)
    log.info("%s", path)
    return path


@torch.no_grad()
def turntable(scene: Scene, frames: int, size: int, elevation: float = 15.0) -> Iterator[np.ndarray]:
    """Frames (size, size, 3) uint8 once around the object, from the front over its right side."""
    for azimuth in torch.linspace(0, 360, frames + 1)[:-1]:
        cameras = scene.camera.view(azimuth[None], elevation, size, size)
        image = scene.renderer(cameras, scene.field, scene.background).rgb
        yield as_uint8(image)[0]
