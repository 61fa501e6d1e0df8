"""Images of a scene at any size: colour with opacity, depth and normals, rendered in strips of bounded memory."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dreamfusion.scene.background.solid import ConstantBackground
from dreamfusion.scene.base import Scene
from dreamfusion.scene.shading import ALBEDO, Shading
from dreamfusion.types import Cameras

RAYS = 2**16  # in one strip: at most about 6 million samples of the default renderer


@dataclass(frozen=True, eq=False)
class Picture:
    """One rendered view of the scene without a background."""

    color: np.ndarray  # (H, W, 3) float32 in [0, 1], not premultiplied
    opacity: np.ndarray  # (H, W) float32 in [0, 1]
    depth: np.ndarray  # (H, W) float32, mean distance along the ray in scene units, 0 on empty rays
    normal: np.ndarray | None  # (H, W, 3) float32, unit, world axes, 0 on empty rays; None if not requested


@torch.no_grad()
def render_picture(
    scene: Scene, camera: Cameras, shading: Shading = ALBEDO, with_normal: bool = False, rays: int = RAYS
) -> Picture:
    """Render one camera in strips of at most `rays` rays, at least one row each.

    Raises:
        ValueError: not exactly one camera.
    """
    if len(camera) != 1:
        raise ValueError(f"render_picture takes one camera, got {len(camera)}")
    black = ConstantBackground([0.0, 0.0, 0.0])
    step = max(1, rays // camera.width)
    strips: list[Tensor] = []
    for top in range(0, camera.height, step):
        rows = slice(top, min(top + step, camera.height))
        out = scene.render(camera, shading, with_normal, rows=rows, background=black)
        parts = [out.rgb, out.opacity, out.depth] + ([out.normal] if with_normal and out.normal is not None else [])
        strips.append(torch.cat(parts, dim=1)[0].cpu())
    image = torch.cat(strips, dim=1).permute(1, 2, 0).numpy()
    opacity = image[..., 3]
    share = np.maximum(opacity, 1e-6)[..., None]  # divides the premultiplied sums
    normal = None
    if with_normal:
        length = np.linalg.norm(image[..., 5:8], axis=-1, keepdims=True)
        normal = image[..., 5:8] / np.maximum(length, 1e-12)
    return Picture((image[..., :3] / share).clip(0, 1), opacity, image[..., 4] / share[..., 0], normal)
