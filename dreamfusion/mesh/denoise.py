"""Remove the lumps of a trained surface and keep its edges (after `isosurface.py` has smoothed it).

Score distillation leaves shallow lumps, wider than a blur can remove without rounding every edge. A bilateral filter
averages the normals of faces near each other, the more the more alike they are (Zheng et al. 2011, "Bilateral Normal
Filtering for Mesh Denoising"), and the vertices follow (Sun et al. 2007, "Fast and Effective Feature-Preserving Mesh
Denoising"). The filter works on a decimated copy, whose displacements move the surface itself.
"""

import numpy as np
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

from dreamfusion.mesh.simplify import simplify

FACES = 6.0  # of the decimated copy, on an area of `width` squared
REACH = 2.0  # standard deviations at which the filter is truncated
AROUND = 96  # faces, the nearest, that a face is averaged with at most; 75 within the reach on a plane
CHUNK = 8192  # faces filtered at once
ALIKE = 0.2  # standard deviation of the difference of unit normals: 11 degrees
PASSES = 5  # of the filter; more make rods and wheels angular
ROUNDS = 30  # in which the vertices follow the normals
NEAREST = 12  # vertices of the copy that move a vertex of the surface
TINY = 1e-12


def denoise(vertices: np.ndarray, faces: np.ndarray, width: float) -> np.ndarray:
    """The vertices (V, 3) float32 of the surface without its lumps.

    Args:
        vertices: (V, 3) float32, scene units.
        faces: (F, 3) integers.
        width: standard deviation of the filter along the surface, scene units; lumps about as wide vanish. 0: none.
    """
    if width == 0:
        return vertices
    area = float(_faces(vertices.astype(np.float64), faces)[1].sum())
    coarse, triangles = simplify(vertices, faces, max(round(FACES * area / width**2), 1))
    before = coarse.astype(np.float64)
    offset = follow(before, triangles, filtered_normals(before, triangles, width)) - before
    distance, near = cKDTree(before).query(vertices, range(1, min(NEAREST, len(before)) + 1))
    middle = np.maximum(distance[:, distance.shape[1] // 2, None], TINY)
    weight = np.exp(-2 * (distance / middle) ** 2)
    weight /= weight.sum(axis=1, keepdims=True)
    return (vertices + np.einsum("vk,vki->vi", weight, offset[near])).astype(np.float32)


def filtered_normals(vertices: np.ndarray, faces: np.ndarray, width: float) -> np.ndarray:
    """Unit normals (F, 3) of the faces after PASSES of the filter; 0 where all faces around are degenerate."""
    normals, area, centers = _faces(vertices, faces)
    most = range(1, min(AROUND, len(faces)) + 1)
    distance, near = cKDTree(centers).query(centers, most, distance_upper_bound=REACH * width)
    near[np.isinf(distance)] = 0
    distance = distance.astype(np.float32)
    fixed = area.astype(np.float32)[near] * np.exp(-(distance**2) / np.float32(2 * width**2))
    normals = normals.astype(np.float32)
    for _ in range(PASSES):
        parts = []
        for start in range(0, len(faces), CHUNK):
            rows = slice(start, start + CHUNK)
            around = normals[near[rows]]  # (C, AROUND, 3)
            cosine = np.einsum("ci,cki->ck", normals[rows], around)
            weight = fixed[rows] * np.exp((cosine - 1) / ALIKE**2)  # |n - m|^2 = 2 - 2 cos
            parts.append(np.einsum("ck,cki->ci", weight, around))
        normals = _unit(np.concatenate(parts))
    return normals.astype(np.float64)


def follow(vertices: np.ndarray, faces: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Vertices (V, 3) whose faces have nearly the given normals (F, 3).

    In each round, a vertex moves by the mean of its ways to the planes through the centres of its faces (Sun et al.
    2007, Eq. 14), here weighted by their areas: slivers have arbitrary normals, and centres that are far away.
    """
    area = np.tile(_faces(vertices, faces)[1], 3)
    corners = faces.T.reshape(-1), np.tile(np.arange(len(faces)), 3)
    of_vertex = csr_array((area, corners), shape=(len(vertices), len(faces)))
    share = 1 / np.maximum(of_vertex.sum(axis=1), TINY)[:, None]
    outer = (of_vertex @ (normals[:, :, None] * normals[:, None]).reshape(-1, 9)).reshape(-1, 3, 3)
    for _ in range(ROUNDS):
        height = np.einsum("fi,fi->f", normals, vertices[faces].mean(axis=1))
        step = of_vertex @ (normals * height[:, None]) - np.einsum("vij,vj->vi", outer, vertices)
        vertices = vertices + share * step
    return vertices


def _faces(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit normals (F, 3), areas (F,) and centres (F, 3)."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    across = np.cross(b - a, c - a)
    return _unit(across), np.linalg.norm(across, axis=1) / 2, (a + b + c) / 3


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, TINY))
