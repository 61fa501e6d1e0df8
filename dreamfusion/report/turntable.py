"""Render a trained scene from all sides, and the frames of its turntable."""

from collections.abc import Iterator

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from dreamfusion.camera.rays import cast_rays
from dreamfusion.checkpoint import TrainedScene
from dreamfusion.image import as_uint8
from dreamfusion.scene.picture import Picture, render_picture
from dreamfusion.scene.shading import ALBEDO, LAMBERTIAN
from dreamfusion.types import Cameras

VISIBLE = 0.5  # opacity above which a ray hits the surface
SMOOTHING = 0.01  # heights of the picture: standard deviation of the blur of the depth before its normals


def seen_around(
    scene: TrainedScene, count: int, size: int, elevation: float = 15.0, lit: bool = False
) -> Iterator[tuple[Cameras, Picture]]:
    """Camera and picture from `count` azimuths, from the front to the right."""
    for azimuth in torch.linspace(0, 360, count + 1)[:-1]:
        camera = scene.camera.view(azimuth[None], elevation, size, size)
        yield camera, render_picture(scene.scene, camera, LAMBERTIAN if lit else ALBEDO)


def surface_normals(camera: Cameras, seen: Picture) -> np.ndarray:
    """Normals (H, W, 3) of the surface that the depth shows: unit, world axes, 0 on empty rays.

    Unlike the gradient of a density that was never lit, they are smooth: the depth is blurred by SMOOTHING.
    """
    rays, visible = cast_rays(camera), seen.opacity > VISIBLE
    depth, share = (
        gaussian_filter(image, SMOOTHING * camera.height) for image in (seen.depth * visible, 1.0 * visible)
    )
    depth = torch.from_numpy(depth / np.maximum(share, 1e-6)).float()
    points = (rays.origins + rays.directions * depth.view(-1, 1)).view(*visible.shape, 3)
    down, right = np.gradient(points.numpy(), axis=(0, 1))
    normal = np.cross(down, right)
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    return np.where(visible[..., None], normal / np.maximum(length, 1e-12), 0).astype(np.float32)


@torch.no_grad()
def turntable(
    scene: TrainedScene, frames: int, size: int, elevation: float = 15.0, lit: bool = False
) -> Iterator[np.ndarray]:
    """Frames (size, size, 3) uint8 of one turn around the object, over the scene's own background."""
    for camera, seen in seen_around(scene, frames, size, elevation, lit):
        directions = cast_rays(camera.to(scene.scene.device)).directions
        behind = scene.scene.background(directions, 1, None).view(size, size, 3).cpu().numpy()
        opacity = seen.opacity[..., None]
        frame = torch.from_numpy(seen.color * opacity + behind * (1 - opacity)).permute(2, 0, 1)
        yield as_uint8(frame[None])[0]
