"""Render a trained scene from all sides, and the frames of its turntable."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from dreamfusion.checkpoint import TrainedScene
from dreamfusion.report.studio import Studio, shade
from dreamfusion.scene.picture import Picture, render_background, render_picture
from dreamfusion.scene.shading import ALBEDO, LAMBERTIAN
from dreamfusion.types import Cameras

# studio: lamps on the surface, and a shadow on the ground; albedo: colours alone; lambertian: the light of the training
LIGHTS = ("studio", "albedo", "lambertian")


def seen_around(
    scene: TrainedScene, count: int, size: int, elevation: float, light: str
) -> Iterator[tuple[Cameras, Picture]]:
    """Camera and picture from `count` azimuths, from the front to the right; `light` is one of LIGHTS."""
    for camera, seen in _around(scene, count, size, elevation, light):
        yield camera, replace(seen, color=shade(camera, seen)) if light == "studio" else seen


@torch.no_grad()
def turntable(
    scene: TrainedScene, frames: int, size: int, elevation: float = 15.0, light: str = "studio"
) -> Iterator[np.ndarray]:
    """Frames (size, size, 3) uint8 of one turn around the object, over the scene's own background.

    In the light of the studio, the object stands on the ground, with a sharp silhouette.
    """
    studio = Studio(scene.scene, scene.camera) if light == "studio" else None
    for camera, seen in _around(scene, frames, size, elevation, light):
        behind = render_background(scene.scene, camera)
        if studio is None:
            frame = seen.color * seen.opacity[..., None] + behind * (1 - seen.opacity[..., None])
        else:
            frame = studio.over(camera, seen, behind)
        yield np.rint(frame.clip(0, 1) * 255).astype(np.uint8)


def _around(
    scene: TrainedScene, count: int, size: int, elevation: float, light: str
) -> Iterator[tuple[Cameras, Picture]]:
    """As `seen_around`, without the lamps of the studio."""
    for azimuth in torch.linspace(0, 360, count + 1)[:-1]:
        camera = scene.camera.view(azimuth[None], elevation, size, size)
        yield camera, render_picture(scene.scene, camera, LAMBERTIAN if light == "lambertian" else ALBEDO)
