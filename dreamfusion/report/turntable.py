"""Render a trained scene from all sides, and the frames of its turntable."""

from collections.abc import Iterator

import numpy as np
import torch

from dreamfusion.camera.rays import cast_rays
from dreamfusion.checkpoint import TrainedScene
from dreamfusion.image import as_uint8
from dreamfusion.scene.picture import Picture, render_picture
from dreamfusion.scene.shading import ALBEDO, LAMBERTIAN


def seen_around(
    scene: TrainedScene, count: int, size: int, elevation: float = 15.0, lit: bool = False, with_normal: bool = False
) -> Iterator[Picture]:
    """Pictures from `count` azimuths, from the front to the right."""
    for azimuth in torch.linspace(0, 360, count + 1)[:-1]:
        camera = scene.camera.view(azimuth[None], elevation, size, size)
        yield render_picture(scene.scene, camera, LAMBERTIAN if lit else ALBEDO, with_normal)


@torch.no_grad()
def turntable(
    scene: TrainedScene, frames: int, size: int, elevation: float = 15.0, lit: bool = False
) -> Iterator[np.ndarray]:
    """Frames (size, size, 3) uint8 of one turn around the object, over the scene's own background."""
    for azimuth, seen in zip(
        torch.linspace(0, 360, frames + 1)[:-1], seen_around(scene, frames, size, elevation, lit), strict=True
    ):
        camera = scene.camera.view(azimuth[None], elevation, size, size)
        directions = cast_rays(camera.to(scene.scene.device)).directions
        behind = scene.scene.background(directions, 1, None).view(size, size, 3).cpu().numpy()
        opacity = seen.opacity[..., None]
        frame = torch.from_numpy(seen.color * opacity + behind * (1 - opacity)).permute(2, 0, 1)
        yield as_uint8(frame[None])[0]
