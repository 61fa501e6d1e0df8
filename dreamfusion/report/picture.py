"""Picture files: PNG with transparency, 16-bit depth, animated WebP."""

from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from dreamfusion.files import replacing

FARTHEST = 65535  # the largest value of a 16-bit picture


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
