"""Pictures of a scene at any size: colour with transparency, depth and normals, in strips of bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from dreamfusion.checkpoint import Scene
from dreamfusion.files import replacing
from dreamfusion.scene.background.solid import ConstantBackground
from dreamfusion.scene.shading import ALBEDO, Shading
from dreamfusion.types import Cameras

RAYS = 2**16  # rendered at once: about 6 million samples of the default renderer at most
FARTHEST = 65535  # the largest value of a 16-bit picture


@dataclass(frozen=True, eq=False)
class Picture:
    """What one camera sees of the scene alone, without a background."""

    color: np.ndarray  # (H, W, 3) float32 in [0, 1], not premultiplied
    opacity: np.ndarray  # (H, W) float32 in [0, 1]
    depth: np.ndarray  # (H, W) float32, mean distance along the ray where something is, 0 elsewhere, scene units
    normal: np.ndarray | None  # (H, W, 3) float32, world axes, unit, 0 where nothing is; None if not asked for


@torch.no_grad()
def render_picture(
    scene: Scene, camera: Cameras, shading: Shading = ALBEDO, with_normal: bool = False, rays: int = RAYS
) -> Picture:
    """One camera's picture, `rays` (at least a row of it) at a time.

    Raises:
        ValueError: more or less than one camera.
    """
    if len(camera) != 1:
        raise ValueError(f"a picture has one camera, got {len(camera)}")
    black = ConstantBackground([0.0, 0.0, 0.0])
    step = max(1, rays // camera.width)
    strips: list[Tensor] = []
    for top in range(0, camera.height, step):
        rows = slice(top, min(top + step, camera.height))
        out = scene.renderer(camera, scene.field, black, shading, with_normal, rows=rows)
        parts = [out.rgb, out.opacity, out.depth] + ([out.normal] if with_normal and out.normal is not None else [])
        strips.append(torch.cat(parts, dim=1)[0].cpu())
    image = torch.cat(strips, dim=1).permute(1, 2, 0).numpy()
    opacity = image[..., 3]
    share = np.maximum(opacity, 1e-6)[..., None]  # of the sums that are the object's
    normal = None
    if with_normal:
        length = np.linalg.norm(image[..., 5:8], axis=-1, keepdims=True)
        normal = image[..., 5:8] / np.maximum(length, 1e-12)
    return Picture((image[..., :3] / share).clip(0, 1), opacity, image[..., 4] / share[..., 0], normal)


def with_transparency(color: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """Colours (H, W, 3) and opacity (H, W) in [0, 1] -> (H, W, 4) uint8."""
    return np.rint(np.concatenate([color, opacity[..., None]], axis=-1) * 255).astype(np.uint8)


def write_rgba(image: np.ndarray, path: Path) -> None:
    """A PNG of (H, W, 4) uint8, not premultiplied."""
    with replacing(path) as draft:
        Image.fromarray(image, "RGBA").save(draft)


def write_depth(depth: np.ndarray, path: Path, near: float, far: float) -> None:
    """A 16-bit grey PNG of depths (H, W): 1 is `near`, 65535 is `far`, linear between them; 0 where nothing is.

    The two, in scene units, stand in the file's text chunks `near` and `far`.
    """
    value = 1 + (depth - near) / (far - near) * (FARTHEST - 1)
    coded = np.where(depth > 0, np.rint(value.clip(1, FARTHEST)), 0).astype(np.uint16)
    text = PngImagePlugin.PngInfo()
    text.add_text("near", f"{near:g}")
    text.add_text("far", f"{far:g}")
    with replacing(path) as draft:
        Image.fromarray(coded).save(draft, pnginfo=text)


def write_webp(images: list[np.ndarray], path: Path, fps: int) -> None:
    """An endless animated WebP of (H, W, 4) uint8 images, transparent where these are.

    Raises:
        ValueError: no image.
    """
    if not images:
        raise ValueError(f"cannot write the animation {path.name!r}: there is no image")
    first, *rest = [Image.fromarray(image, "RGBA") for image in images]
    with replacing(path) as draft:
        first.save(draft, "WEBP", save_all=True, append_images=rest, duration=round(1000 / fps), loop=0, quality=85)
