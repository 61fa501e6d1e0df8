"""Blur an occupancy grid where the object is thick (between `density_grid.py` and marching cubes).

A trained solid has pits and lumps that the renders do not show, and a Gaussian removes them. It also removes what is as
thin as itself, arms, spokes and legs, which the renders do show: these are blurred half as much.
"""

import numpy as np
from scipy.ndimage import gaussian_filter, label, maximum_filter

from dreamfusion.mesh.density_grid import SURFACE

REACH = 3.0  # standard deviations at which the kernel is truncated
LESS = 0.5  # standard deviation for thin parts, of that for thick ones
CORE = 0.7  # least blurred occupancy within thick parts: in the middle of a rod of 1.55 standard deviations in radius
RADIUS = 1.5  # standard deviations that thick parts reach beyond these cores
AWAY = 3.0  # of that radius: a thin part goes as far from the cores; what does not is the roughness of thick parts
STRIDE = 2  # points between those that tell thin from thick


def blur(occupancy: np.ndarray, cells: float) -> None:
    """Blur in place within the box of nonzero values; the border stays 0, so that the surface is closed.

    Args:
        occupancy: (N, N, N) float32 in [0, 1].
        cells: standard deviation of the Gaussian for thick parts.
    """
    part = occupancy[_box(occupancy, int(np.ceil(REACH * cells)), 1)]
    blurred = _gaussian(part, cells)
    thin = thin_parts(part, blurred, cells)
    if thin.any():
        box = _box(thin, int(np.ceil(REACH)), 0)
        edge = gaussian_filter(thin[box].astype(np.float32), STRIDE, mode="nearest", truncate=REACH / STRIDE)
        blurred[box] = np.maximum(blurred[box], _gaussian(part[box], LESS * cells) * edge)
    part[:] = blurred


def thin_parts(occupancy: np.ndarray, blurred: np.ndarray, cells: float) -> np.ndarray:
    """True in and around the parts that a blur of `cells` would make thinner, (N, N, N) bool.

    These are the solid pieces beyond the reach of thick parts, which still are solid inside when they are blurred.
    """
    steps, radius = (slice(None, None, STRIDE),) * 3, RADIUS * cells / STRIDE
    core = blurred[steps] > CORE
    pieces, count = label((occupancy[steps] > SURFACE) & ~_grown(core, radius))
    keep = np.zeros(count + 1, bool)
    keep[pieces[~_grown(core, AWAY * radius)]] = True
    keep[0] = False
    around = _grown(keep[pieces], radius) if keep.any() else np.zeros(core.shape, bool)
    for axis in range(3):
        around = around.repeat(STRIDE, axis)
    return around[tuple(slice(side) for side in occupancy.shape)]


def _grown(solid: np.ndarray, radius: float) -> np.ndarray:
    return np.asarray(maximum_filter(solid, 2 * round(radius) + 1, mode="constant"))


def _gaussian(occupancy: np.ndarray, cells: float) -> np.ndarray:
    return np.asarray(gaussian_filter(occupancy, cells, mode="constant", truncate=REACH))


def _box(grid: np.ndarray, margin: int, border: int) -> tuple[slice, ...]:
    """The box of the nonzero values with a margin, without the outermost `border` points of the grid."""
    box = []
    for axis in range(3):
        there = np.flatnonzero(grid.any(axis=tuple({0, 1, 2} - {axis})))
        low, high = int(there[0]) - margin, int(there[-1]) + margin + 1
        box.append(slice(max(low, border), min(high, grid.shape[axis] - border)))
    return tuple(box)
