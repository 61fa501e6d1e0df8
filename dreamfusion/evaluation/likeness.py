"""Image distance and colour classification for `pocket_prior.py`, without learned features.

Features of an image are its oriented gradients (Dalal & Triggs 2005), for shape, and its CIELAB colours on a coarse
grid. Their weights were chosen on real renders, to maximise how often a held-out render in another light is nearest to
its own model among 100 (`pocket_prior.py` reports that share as the ceiling).
"""

import numpy as np
from skimage.color import rgb2lab
from skimage.feature import hog

from dreamfusion.pocket.model.words import COLORS

CELL = 8  # pixels a side, for gradients and colours
LIGHTNESS = 0.3  # weight of CIELAB's L relative to a and b: the light of a sample is unknown
# Renders of two models differ by 7.1 in gradients and 147 in colours on average: gradients weigh slightly more.
GRADIENT_SCALE, COLOR_SCALE = 7.0, 200.0
BORDER = 2  # pixels

# Light scales the colour of a surface (Poole et al. 2022, Eq. 7): colour words are compared under these exposures.
EXPOSURES = np.array([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3])
EXPOSURE_COST = 10.0  # CIELAB units per factor of e; without this cost, gray equals dark white


def features(pictures: np.ndarray) -> np.ndarray:
    """Images (N, r, r, 3) in [0, 1] -> features (N, D), compared by Euclidean distance."""
    gradients = (hog(p, 9, (CELL, CELL), (2, 2), channel_axis=-1) for p in pictures)
    pairs = zip(gradients, pictures, strict=True)
    return np.stack([np.concatenate([g / GRADIENT_SCALE, _colors(p) / COLOR_SCALE]) for g, p in pairs])


def border_color(picture: np.ndarray) -> np.ndarray:
    """Background colour of an image (r, r, 3): the median of its outermost pixels."""
    inner = np.zeros(picture.shape[:2], dtype=bool)
    inner[BORDER:-BORDER, BORDER:-BORDER] = True
    return np.asarray(np.median(picture[~inner], axis=0), dtype=np.float32)


def color_word(rgb: np.ndarray) -> str:
    """The word of `captions.COLORS` nearest to a colour (3,) in CIELAB, minimised over exposures."""
    palette = np.array(list(COLORS.values()))
    lit = rgb2lab(palette[:, None] * EXPOSURES[:, None])  # (words, exposures, 3)
    distance = np.linalg.norm(lit - rgb2lab(rgb[None, None]), axis=-1) - EXPOSURE_COST * np.log(EXPOSURES)
    return list(COLORS)[int(distance.min(axis=1).argmin())]


def _colors(picture: np.ndarray) -> np.ndarray:
    cells = picture.shape[0] // CELL
    grid = picture.reshape(cells, CELL, cells, CELL, 3).mean(axis=(1, 3))
    return np.asarray(rgb2lab(grid) * [LIGHTNESS, 1.0, 1.0]).ravel()
