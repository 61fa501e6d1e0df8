"""Fill the inside of an occupancy grid that nobody can see (between `density_grid.py` and `blur.py`).

Score distillation shapes the surface that cameras see; behind it a density field may be empty. Closed cavities are
dropped with the small pieces (`isosurface.py`), but one pinhole joins a cavity to the outer surface, and then the mesh
has walls inside. A point is hidden if the straight lines from it to the outside are blocked in almost all directions.
"""

from math import gcd

import numpy as np
from scipy.ndimage import binary_erosion, maximum_filter

from dreamfusion.mesh.density_grid import SURFACE

SIDE = 128  # points a side of the grid, or somewhat fewer, on which lines are followed
REACH = range(-2, 3)  # steps along an axis of the direction of a line
SEEN = 2  # lines that reach the outside, from which on a point is seen: 2 % of all; fewer come through a pinhole
SMALL = 1  # of these points: hidden places that an erosion by as many removes are left, such as the ends of crevices
ALONG = 2  # points that a filled place reaches beyond what is left by the erosion, where it is hidden


def fill_hidden(occupancy: np.ndarray) -> None:
    """Set the hidden points of a grid (N, N, N), float32 in [0, 1], to 1 in place; its border stays as it is."""
    step = -(-len(occupancy) // SIDE)
    hidden = hidden_points(occupancy[::step, ::step, ::step] > SURFACE)
    if not hidden.any():
        return
    for axis in range(3):
        hidden = hidden.repeat(step, axis)
    inside = hidden[tuple(slice(side) for side in occupancy.shape)]
    inside[[0, -1]] = inside[:, [0, -1]] = inside[:, :, [0, -1]] = False
    occupancy[inside] = 1.0


def hidden_points(solid: np.ndarray) -> np.ndarray:
    """The empty points, (N, N, N) bool, that fewer than SEEN lines join to the outside, without narrow places."""
    seen = np.zeros(solid.shape, np.uint8)
    for direction in directions():
        seen += ~_blocked(solid, direction)
    hidden = ~solid & (seen < SEEN)
    core = binary_erosion(hidden | solid, iterations=SMALL) & hidden
    around = maximum_filter(core, 2 * ALONG + 1, mode="constant") if core.any() else core
    return np.asarray(hidden & around)


def directions() -> list[tuple[int, int, int]]:
    """All different directions whose steps along the axes are in REACH: 98."""
    steps = [(a, b, c) for a in REACH for b in REACH for c in REACH]
    return [(a, b, c) for a, b, c in steps if gcd(a, b, c) == 1]


def _blocked(solid: np.ndarray, direction: tuple[int, int, int]) -> np.ndarray:
    """Whether a solid point lies on the line from each point in `direction`."""
    main = int(np.abs(direction).argmax())
    slices = np.moveaxis(solid, main, 0)
    blocked = np.zeros_like(slices)
    ahead = np.sign(direction[main])
    order = range(len(slices)) if ahead < 0 else range(len(slices) - 1, -1, -1)
    across = [step / abs(direction[main]) for axis, step in enumerate(direction) if axis != main]
    before = np.zeros(slices.shape[1:], bool)  # what is in the slice ahead, or blocked from there
    for count, place in enumerate(order):
        shift = [round(count * step) - round((count - 1) * step) for step in across]
        blocked[place] = _moved(before, -shift[0], -shift[1])
        before = blocked[place] | slices[place]
    return np.moveaxis(blocked, 0, main)


def _moved(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """The image (N, N) shifted by at most a point a side; False comes in."""
    result = np.zeros_like(image)
    height, width = image.shape
    to = slice(max(down, 0), height + min(down, 0)), slice(max(right, 0), width + min(right, 0))
    source = slice(max(-down, 0), height + min(-down, 0)), slice(max(-right, 0), width + min(-right, 0))
    result[to] = image[source]
    return result
