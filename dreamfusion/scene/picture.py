"""Images of a scene at any size: colour with opacity, depth and normals, rendered in strips of bounded memory."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from dreamfusion.camera.rays import cast_rays
from dreamfusion.ops.memory import free_memory
from dreamfusion.scene.background.solid import ConstantBackground
from dreamfusion.scene.base import Scene
from dreamfusion.scene.shading import ALBEDO, Shading
from dreamfusion.types import Cameras, RenderOutput

STRIP = 2**30  # bytes that the render of one strip may take
SHARE = 4  # a strip on a GPU may take this part of its free memory


@dataclass(frozen=True, eq=False)
class Picture:
    """One rendered view of the scene without a background."""

    color: np.ndarray  # (H, W, 3) float32 in [0, 1], not premultiplied
    opacity: np.ndarray  # (H, W) float32 in [0, 1]
    depth: np.ndarray  # (H, W) float32, mean distance along the ray in scene units, 0 on empty rays
    normal: np.ndarray | None  # (H, W, 3) float32, unit, world axes, 0 on empty rays; None if not requested


@torch.no_grad()
def render_picture(scene: Scene, camera: Cameras, shading: Shading = ALBEDO, with_normal: bool = False) -> Picture:
    """Render one camera.

    Raises:
        ValueError: not exactly one camera.
    """
    if len(camera) != 1:
        raise ValueError(f"render_picture takes one camera, got {len(camera)}")
    black = ConstantBackground([0.0, 0.0, 0.0]).to(scene.device)
    out = render_views(scene, camera, shading, with_normal, black)
    parts = [out.rgb, out.opacity, out.depth] + ([out.normal] if with_normal and out.normal is not None else [])
    image = torch.cat([part[0].cpu() for part in parts]).permute(1, 2, 0).numpy()
    opacity = image[..., 3]
    share = np.maximum(opacity, 1e-6)[..., None]  # divides the premultiplied sums
    normal = None
    if with_normal:
        length = np.linalg.norm(image[..., 5:8], axis=-1, keepdims=True)
        normal = image[..., 5:8] / np.maximum(length, 1e-12)
    return Picture((image[..., :3] / share).clip(0, 1), opacity, image[..., 4] / share[..., 0], normal)


@torch.no_grad()
def render_background(scene: Scene, camera: Cameras) -> np.ndarray:
    """The scene's own background (H, W, 3) behind a view."""
    directions = cast_rays(camera.to(scene.device)).directions
    return scene.background(directions, 1, None).view(camera.height, camera.width, 3).cpu().numpy()


@torch.no_grad()
def render_views(
    scene: Scene,
    cameras: Cameras,
    shading: Shading = ALBEDO,
    with_normal: bool = False,
    background: nn.Module | None = None,
) -> RenderOutput:
    """Render B cameras for evaluation, see `Scene.render`, with the memory of one strip."""
    parts, behind = [], []
    for strip in strips(scene, cameras, shading, with_normal, background):  # its samples are dropped at once
        images = [strip.rgb, strip.opacity, strip.depth, *([] if strip.normal is None else [strip.normal])]
        parts.append(torch.cat(images, dim=1)[0])
        behind.append(strip.background * strip.rgb.shape[2] / cameras.height)
    rows = torch.cat(parts, dim=1)  # the views below each other
    views = rows.view(len(rows), len(cameras), cameras.height, cameras.width).transpose(0, 1)
    return RenderOutput(
        rgb=views[:, :3],
        background=torch.cat(behind).view(len(cameras), -1, 3).sum(1),
        opacity=views[:, 3:4],
        depth=views[:, 4:5],
        normal=views[:, 5:] if views.shape[1] > 5 else None,
    )


@torch.no_grad()
def strips(
    scene: Scene,
    cameras: Cameras,
    shading: Shading = ALBEDO,
    with_normal: bool = False,
    background: nn.Module | None = None,
) -> Iterator[RenderOutput]:
    """Render B cameras, view by view from top to bottom, in strips of rows that take at most `strip_bytes`.

    The cameras may be on the CPU, wherever the scene is.
    """
    cameras = cameras.to(scene.device)
    line = scene.bytes_per_ray(with_normal or shading.needs_normal) * cameras.width
    rows = cameras.height if scene.draws_whole else max(1, strip_bytes(scene.device) // line)
    for view in range(len(cameras)):
        for top in range(0, cameras.height, rows):
            part = slice(top, min(top + rows, cameras.height))
            yield scene.render(cameras.one(view), shading, with_normal, rows=part, background=background)


def strip_bytes(device: torch.device) -> int:
    """Bytes for one strip: a GPU needs large ones to be busy."""
    return STRIP if device.type != "cuda" else max(STRIP, free_memory(device) // SHARE)
