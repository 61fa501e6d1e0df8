"""Points of a lattice inside a triangle mesh, and where its faces cross the lattice edges (numba, for `scene=mesh`).

Letters: N cells a side; a lattice edge ends at the point whose index it has.
"""

import numpy as np

from dreamfusion.ops.kernel_cache import njit

Array = np.ndarray
SHIFT = 1.7e-4, 2.9e-4  # cells; the lines miss edges that lie exactly on the lattice, as those of a box often do


def solid(corners: Array, side: int) -> tuple[Array, Array]:
    """Which points of a lattice are inside of a mesh, by two of the lines through the point along the three axes.

    A line votes by the faces before the point: by their orientation, if all of the line's faces cancel (also if all
    of them are turned inside out; parts may overlap), else by their number, if it is even. Else, as through a hole, it
    has no vote.

    Args:
        corners: (F, 3, 3) float64 corners of the faces in cells from the first lattice point.
        side: N.

    Returns:
        (N + 1, N + 1, N + 1) bool, and for each axis (3, N + 1, N + 1, N + 1) float32 where the last face crosses the
        lattice edge, in (0, 1) from its start; 0.5 without a face.
    """
    shape = (side + 1,) * 3
    votes, places = np.zeros(shape, np.int8), np.full((3, *shape), 0.5, np.float32)
    for axis in range(3):
        turned = np.ascontiguousarray(np.roll(corners, -axis, axis=2))
        # One more edge, after the last point.
        turn, count = np.zeros((*shape[:2], side + 2), np.int32), np.zeros((*shape[:2], side + 2), np.int32)
        place = np.full((*shape[:2], side + 2), 0.5, np.float32)
        _cross(turned, turn, count, place)
        winding, number = turn.cumsum(2), count.cumsum(2)
        cancels, even = winding[..., -1:] == 0, number[..., -1:] % 2 == 0
        inside = np.where(cancels, winding != 0, number % 2 == 1)[..., :-1]
        vote = np.where(cancels | even, np.where(inside, 1, -1), 0).astype(np.int8)
        axes = [(i - axis - 1) % 3 for i in range(3)]  # to x, y, z
        votes += vote.transpose(axes)
        places[axis] = place[..., :-1].transpose(axes)
    return votes > 0, places


@njit(nogil=True, error_model="numpy")
def _cross(corners: Array, turn: Array, count: Array, place: Array) -> None:
    """Add the faces (F, 3, 3) to the lines along the first axis, at [second, third, edge]."""
    last = turn.shape[2] - 1
    for f in range(len(corners)):
        y0, y1, y2 = corners[f, 0, 1] - SHIFT[0], corners[f, 1, 1] - SHIFT[0], corners[f, 2, 1] - SHIFT[0]
        z0, z1, z2 = corners[f, 0, 2] - SHIFT[1], corners[f, 1, 2] - SHIFT[1], corners[f, 2, 2] - SHIFT[1]
        area = (y1 - y0) * (z2 - z0) - (y2 - y0) * (z1 - z0)
        if area == 0:
            continue
        low_y, high_y = max(0, int(np.ceil(min(y0, y1, y2)))), min(turn.shape[0] - 1, int(np.floor(max(y0, y1, y2))))
        low_z, high_z = max(0, int(np.ceil(min(z0, z1, z2)))), min(turn.shape[1] - 1, int(np.floor(max(z0, z1, z2))))
        for j in range(low_y, high_y + 1):
            for k in range(low_z, high_z + 1):
                b0 = ((y1 - j) * (z2 - k) - (y2 - j) * (z1 - k)) / area
                b1 = ((y2 - j) * (z0 - k) - (y0 - j) * (z2 - k)) / area
                b2 = 1.0 - b0 - b1
                if b0 < 0 or b1 < 0 or b2 < 0:
                    continue
                x = b0 * corners[f, 0, 0] + b1 * corners[f, 1, 0] + b2 * corners[f, 2, 0]
                edge = min(max(int(np.ceil(x)), 0), last)
                turn[j, k, edge] += 1 if area > 0 else -1
                count[j, k, edge] += 1
                place[j, k, edge] = min(max(x - edge + 1, 0.0), 1.0)
