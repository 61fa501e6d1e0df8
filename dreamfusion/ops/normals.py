"""Vertex normals for meshes without normals: smooth across flat angles, sharp at creases. Numba."""

import numpy as np

from dreamfusion.ops.kernel_cache import njit

MOST = 2000


def crease_normals(vertices: np.ndarray, faces: np.ndarray, angle: float) -> np.ndarray:
    """(F, 3, 3) unit normals of the corners of each face: area-weighted means over the faces at the corner's position
    whose normals differ by less than `angle` degrees from the face's. Coincident vertices count as one.

    Where more than MOST faces meet, a corner has its face's normal: the time grows with the square of their number, and
    a foreign file may join a million faces in a point.
    """
    points = np.ascontiguousarray(vertices, np.float64) + 0.0  # merges -0 and 0
    _, place = np.unique(points.view("V24").reshape(-1), return_inverse=True)
    corner_place = place.reshape(-1)[faces.reshape(-1)]
    order = np.argsort(corner_place, kind="stable")
    ends = np.flatnonzero(np.diff(corner_place[order], append=-1)) + 1
    a, b, c = (points[faces[:, i]] for i in range(3))
    area = np.cross(b - a, c - a)  # twice the area, along the normal
    unit = area / np.maximum(np.linalg.norm(area, axis=1, keepdims=True), 1e-30)
    normals = np.empty((3 * len(faces), 3))
    _average(order, ends, area, unit, float(np.cos(np.radians(angle))), normals)
    return normals.reshape(-1, 3, 3)


@njit(nogil=True, fastmath=True, error_model="numpy")
def _average(
    order: np.ndarray, ends: np.ndarray, area: np.ndarray, unit: np.ndarray, limit: float, normals: np.ndarray
) -> None:
    start = 0
    for end in ends:
        for place in range(start, end):
            corner = order[place]
            face = corner // 3
            x, y, z = unit[face, 0], unit[face, 1], unit[face, 2]
            sx, sy, sz = 0.0, 0.0, 0.0
            for other_corner in order[start:end] if end - start <= MOST else order[place : place + 1]:
                other = other_corner // 3
                if x * unit[other, 0] + y * unit[other, 1] + z * unit[other, 2] >= limit:
                    sx, sy, sz = sx + area[other, 0], sy + area[other, 1], sz + area[other, 2]
            length = np.sqrt(sx * sx + sy * sy + sz * sz)
            if length < 1e-30:  # degenerate face: any unit vector
                sx, sy, sz, length = 0.0, 1.0, 0.0, 1.0
            normals[corner, 0], normals[corner, 1], normals[corner, 2] = sx / length, sy / length, sz / length
        start = end
