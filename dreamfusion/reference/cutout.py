"""Separate the object of a picture from its background, and place it in the square frame of a view.

The object is where the picture is opaque. In a picture without transparency, the background is what is connected to the
border and differs from the border's median colour by at most TOLERANCE; and what the object encloses, as within a
handle or below the back of a chair, where nearly all of it differs by at most EXACT.
Letters: H x W pixels of the picture, S pixels a side of the frame.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy import ndimage

from dreamfusion.error import UserError

TOLERANCE = 24  # of 255, largest difference of a channel from the border's median colour
EXACT, MOSTLY = 4, 0.9  # of 255, such a difference in a hole, and the share of its pixels; a white part has shadows
PLAIN = 0.8  # share of the border that must be within the tolerance; the object may cover the rest
DUST = 0.01  # pieces below this share of the largest piece's area are removed
LEAST = 8  # pixels along the longer side of the object

Box = tuple[float, float, float, float]  # left, top, right, bottom


def cut_out(pixels: np.ndarray, name: str) -> np.ndarray:
    """RGBA (H, W, 4) uint8 -> the same with the alpha of the object alone; `name` is the picture's in the error.

    Raises:
        UserError: the background is not plain, or there is no object.
    """
    alpha = pixels[..., 3]
    if (alpha > 127).all():
        alpha = np.where(_background(pixels[..., :3], name), 0, 255).astype(np.uint8)
    pieces, count = ndimage.label(alpha > 127, np.ones((3, 3)))
    areas = np.bincount(pieces.ravel(), minlength=count + 1)
    areas[0] = 0  # not a piece
    dust = areas < DUST * areas.max()
    dust[0] = False
    cut = np.concatenate([pixels[..., :3], np.where(dust[pieces], 0, alpha)[..., None]], axis=2)
    left, top, right, bottom = object_box(cut) if count else (0, 0, 0, 0)
    if max(right - left, bottom - top) < LEAST:
        seen = "all of it is like its border or transparent" if not count else f"what is left has {right - left:g} x "
        seen += "" if not count else f"{bottom - top:g} pixels"
        raise UserError(f"{name} has no object: {seen}; type a picture of one object on a plain or transparent ground")
    return cut


def object_box(pixels: np.ndarray) -> Box:
    """The box around the opaque pixels of (H, W, 4), in pixels."""
    solid = pixels[..., 3] > 127
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def centred_box(box: Box, fill: float) -> Box:
    """A box of the same proportions in the middle of the frame, whose longer side is `fill` of the frame's."""
    width, height = box[2] - box[0], box[3] - box[1]
    half = fill / 2 / max(width, height)
    return 0.5 - half * width, 0.5 - half * height, 0.5 + half * width, 0.5 + half * height


def frame(pixels: np.ndarray, box: Box, target: Sequence[float], size: int, nearest: bool = False) -> np.ndarray:
    """Move the part `box` of RGBA (H, W, 4) uint8 to the place of `target`, a box in shares of the frame.

    Proportions are kept: both boxes have the same middle and area then. What is outside of `box` is transparent.

    Returns:
        (S, S, 4) uint8 for `size` S, averaged over the area of a pixel, or with `nearest` single pixels.
    """
    left, top, right, bottom = (round(side) for side in box)
    width, height = target[2] - target[0], target[3] - target[1]
    side = ((right - left) * (bottom - top) / (width * height)) ** 0.5  # of the frame, in pixels of the picture
    x = (left + right) / 2 - side * (target[0] + target[2]) / 2  # of the frame's corner
    y = (top + bottom) / 2 - side * (target[1] + target[3]) / 2
    # The window may reach beyond the picture, where Pillow has no pixels.
    before = max(0, int(np.ceil(left - x)), int(np.ceil(top - y)))
    after = max(0, int(np.ceil(x + side - right)), int(np.ceil(y + side - bottom)))
    part = np.pad(pixels[top:bottom, left:right], ((before, after), (before, after), (0, 0)))
    corner = x - left + before, y - top + before
    method = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    window = (*corner, corner[0] + side, corner[1] + side)
    return np.asarray(Image.fromarray(part, "RGBA").resize((size, size), method, box=window))


def _background(colors: np.ndarray, name: str) -> np.ndarray:
    """Where (H, W, 3) uint8 colours are the background, (H, W) bool.

    Raises:
        UserError: less than PLAIN of the border is within TOLERANCE of the border's median.
    """
    border = np.concatenate([colors[0], colors[-1], colors[1:-1, 0], colors[1:-1, -1]])
    away = np.abs(colors.astype(np.int16) - np.median(border, axis=0)).max(axis=2)
    near = away <= TOLERANCE
    share = np.concatenate([near[0], near[-1], near[1:-1, 0], near[1:-1, -1]]).mean()
    if share < PLAIN:
        raise UserError(
            f"{name} has no plain background: {share:.0%} of its border has one colour, at least {PLAIN:.0%} are "
            "needed; type a picture on a plain ground, or one with a transparent background (PNG, WebP)"
        )
    pieces, count = ndimage.label(near)
    edges = np.unique(np.concatenate([pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]]))
    areas = np.bincount(pieces.ravel(), minlength=count + 1)
    exact = np.bincount(pieces.ravel(), weights=(away <= EXACT).ravel(), minlength=count + 1)
    outside = exact >= MOSTLY * areas
    outside[edges] = True
    outside[0] = False  # not near the border's colour
    return outside[pieces]
