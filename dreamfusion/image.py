"""Images as tensors, arrays and PNG files: resizing, 8-bit conversion, contact sheets, the bound of foreign files."""

import io
import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from dreamfusion.files import replacing

LEGIBLE = 128  # pixels a side
MAX_PIXELS = 2**25  # of a foreign picture as it is stored, 128 MiB when decoded


def resize(rgb: Tensor, resolution: int) -> Tensor:
    """(B, 3, H, H) -> (B, 3, resolution, resolution), bilinear, antialiased when it shrinks.

    threestudio does not antialias; renders above the prior's size alias there, and its gradient skips pixels.

    Raises:
        ValueError: the image is not square.
    """
    height, width = rgb.shape[-2:]
    if height != width:
        raise ValueError(f"a prior takes square images, got {height} x {width} pixels; set one size for both sides")
    if height == resolution:
        return rgb
    return F.interpolate(rgb, (resolution, resolution), mode="bilinear", align_corners=False, antialias=True)


def as_uint8(rgb: Tensor) -> np.ndarray:
    """Rendered colours (B, 3, H, W) in [0, 1] -> (B, H, W, 3) uint8, rounded to nearest."""
    return (rgb.detach().float().clamp(0.0, 1.0) * 255.0).round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()


def linear_from_srgb(colors: np.ndarray) -> np.ndarray:
    """Display colours in [0, 1] -> linear light (IEC 61966-2-1)."""
    return np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)


def srgb_from_linear(light: np.ndarray) -> np.ndarray:
    """Linear light in [0, 1] -> display colours (IEC 61966-2-1)."""
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055)


def enlarged(pictures: np.ndarray) -> np.ndarray:
    """Repeat the pixels of (N, H, W, 3) pictures smaller than LEGIBLE by an integer factor."""
    factor = -(-LEGIBLE // pictures.shape[1])  # rounded up
    return pictures.repeat(factor, axis=1).repeat(factor, axis=2)


def contact_sheet(images: Sequence[np.ndarray], columns: int, gap: int = 0, background: int = 255) -> np.ndarray:
    """Grid of (H, W, 3) uint8 images of one size, row by row, with `gap` pixels of `background` between."""
    if len(images) == 0 or columns < 1:
        raise ValueError(f"a contact sheet needs an image and a column, got {len(images)} images, {columns} columns")
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    height, width, _ = checked_image(images[0], "image 0").shape
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), background, dtype=np.uint8)
    for index, image in enumerate(images):
        if checked_image(image, f"image {index}").shape != images[0].shape:
            raise ValueError(f"image {index} has shape {image.shape}, the first one has {images[0].shape}")
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def write_image(image: np.ndarray, path: Path) -> None:
    """Write an (H, W, 3) uint8 image as a PNG; optimizing it would take 6 times as long for 6 % fewer bytes."""
    if path.suffix.lower() != ".png":
        raise ValueError(f"cannot write the image {path.name!r}: the only format is png")
    with replacing(path) as draft:
        Image.fromarray(checked_image(image, "image")).save(draft)


def checked_image(image: np.ndarray, name: str) -> np.ndarray:
    """Return `image` if it is (H, W, 3) uint8; `name` is its name in the error.

    Raises:
        ValueError: another type or shape.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"{name} is {image.dtype} of shape {image.shape}, expected uint8 of shape (H, W, 3)")
    return image


def check_picture(content: bytes, name: str) -> None:
    """Raises: ValueError: a picture has more than MAX_PIXELS; only its header is read. Other files pass."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the bound below is lower than Pillow's
            with Image.open(io.BytesIO(content)) as picture:
                width, height = picture.size
    except Image.DecompressionBombError as error:
        raise ValueError(f"the picture {name} is too large: {error}") from error
    except UnidentifiedImageError:
        return
    if width * height > MAX_PIXELS:
        raise ValueError(f"the picture {name} has {width} x {height} pixels; at most {MAX_PIXELS} are allowed")
