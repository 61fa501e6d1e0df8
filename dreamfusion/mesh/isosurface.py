"""Extract a closed triangle mesh from a density field (stage 14, before `bake_texture.py`).

Marching cubes (Lorensen and Cline 1987; the watertight variant of Lewiner et al. 2003 in scikit-image) on the grid of
`density_grid.py`, optionally blurred; then removal of small and inner pieces, smoothing, decimation and normals.
"""

from collections.abc import Callable

import numpy as np
import torch
import trimesh
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes
from torch import Tensor

from dreamfusion.export.settings import ExportSettings
from dreamfusion.mesh.blur import blur
from dreamfusion.mesh.denoise import denoise
from dreamfusion.mesh.density_grid import SURFACE, EmptyFieldError, sample_occupancy
from dreamfusion.mesh.hidden import fill_hidden
from dreamfusion.mesh.simplify import repair, simplify
from dreamfusion.types import Mesh

TAUBIN_SHRINK, TAUBIN_INFLATE = 0.5, 0.53  # lambda and |mu| of Taubin 1995, Sec. 3.1; |mu| is slightly larger
NEAREST = 4  # vertices whose normals a vertex of the decimated mesh has
SAME_SIDE = 0.5  # least cosine between their normals and that of the decimated mesh
FLOOR = 0.05  # scene units above the lowest point from which on a piece does not stand on the floor
TINY = 1e-20  # squared scene units: smaller areas count as degenerate


def extract_mesh(
    density: Callable[[Tensor], Tensor],
    radius: float,
    threshold: float,
    export: ExportSettings,
    level: Callable[[np.ndarray], float] = lambda occupancy: SURFACE,
) -> Mesh:
    """The surface where the density equals `threshold`, inside the sphere of `radius` around the origin.

    Closed inner surfaces (the inside of a hollow shell) are invisible and always dropped.

    Args:
        density: positions (N, 3) -> density (N,), per scene unit.
        radius: of the scene, scene units; the surface is capped there so that it is closed.
        threshold: density of the surface, per scene unit; `find_threshold` chooses one.
        export: resolution, blur, smallest piece, smoothing, denoising and number of faces.
        level: maps the blurred grid to the occupancy of the surface.

    Raises:
        EmptyFieldError: there is no surface at this threshold; the message names the sampled densities.
        ValueError: a density is NaN.
    """
    with torch.no_grad():
        occupancy = sample_occupancy(density, radius, export.resolution, threshold, export.chunk)
    if export.fill_hidden:
        fill_hidden(occupancy)
    cell = 2.0 * radius / export.resolution
    if export.blur > 0:
        blur(occupancy, export.blur / cell)
    at = level(occupancy)
    if occupancy.max() <= at:
        raise EmptyFieldError(f"export.blur={export.blur} removes the object, which is thinner; use a smaller value")
    # scikit-image uses left-handed winding: "ascent" is counter-clockwise around an object denser than its outside.
    places, triangles, _, _ = marching_cubes(occupancy, level=at, gradient_direction="ascent")
    vertices = (-radius + cell * places).astype(np.float32)
    vertices, triangles = _keep_large_pieces(vertices, triangles.astype(np.int64), export)
    if export.smoothing > 0:
        vertices = _smooth(vertices, triangles, export.smoothing)
    return decimated(denoise(vertices, triangles, export.denoise), triangles, export.faces)


def finish_mesh(vertices: np.ndarray, triangles: np.ndarray, export: ExportSettings) -> Mesh:
    """A trained surface (V, 3), (F, 3) as a mesh for export: without small pieces, repaired, denoised, decimated.

    Not smoothed: its roughness was trained away.
    """
    vertices, triangles = repair(*_keep_large_pieces(vertices, triangles, export))
    return decimated(denoise(vertices, triangles, export.denoise), triangles, export.faces)


def _keep_large_pieces(
    vertices: np.ndarray, faces: np.ndarray, export: ExportSettings
) -> tuple[np.ndarray, np.ndarray]:
    """The connected pieces with positive volume and at least `min_piece` of the largest piece's area, or
    `min_standing_piece` if they stand on the floor.

    The signed volume of a closed piece, sum of a.(b x c)/6 over its faces, is negative for the wall of a cavity.
    """
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]])
    piece_of_vertex = trimesh.graph.connected_component_labels(edges, node_count=len(vertices))
    pieces, piece = int(piece_of_vertex.max()) + 1, piece_of_vertex[faces[:, 0]]

    a, b, c = (vertices[faces[:, i]].astype(np.float64) for i in range(3))
    normal = np.cross(b - a, c - a)  # (F, 3), length = twice the area
    area = np.bincount(piece, np.linalg.norm(normal, axis=1) / 2.0, pieces)
    volume = np.bincount(piece, np.einsum("fi,fi->f", a, normal) / 6.0, pieces)

    solid = volume > 0.0
    share = area / area[solid].max()
    bottom = np.full(pieces, np.inf)
    np.minimum.at(bottom, piece, vertices[faces, 1].min(axis=1))
    candidates = solid & (share >= min(export.min_piece, export.min_standing_piece))
    standing = bottom <= bottom[candidates].min() + FLOOR
    keep = solid & ((share >= export.min_piece) | (standing & (share >= export.min_standing_piece)))
    faces = faces[keep[piece]]
    used = np.zeros(len(vertices), dtype=bool)
    used[faces] = True
    renumber = np.cumsum(used) - 1
    return vertices[used], renumber[faces]


def _smooth(vertices: np.ndarray, faces: np.ndarray, rounds: int) -> np.ndarray:
    """Taubin 1995: each round is a Laplacian step inward and one outward, a low-pass filter that does not shrink."""
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    trimesh.smoothing.filter_taubin(mesh, lamb=TAUBIN_SHRINK, nu=TAUBIN_INFLATE, iterations=2 * rounds)
    return np.asarray(mesh.vertices, dtype=np.float32)


def decimated(vertices: np.ndarray, triangles: np.ndarray, faces: int) -> Mesh:
    """The surface (V, 3), (F, 3) with about `faces` triangles, lit as before: with the normals of the whole surface.

    The normals are means over the nearest of its vertices, weighted by the inverse squared distance; not over those
    of the other side of a thin wall.
    """
    coarse_vertices, coarse = simplify(vertices, triangles, faces)
    normals = vertex_normals(coarse_vertices, coarse)
    if len(coarse) < len(triangles):
        distance, nearest = cKDTree(vertices).query(coarse_vertices, NEAREST)
        around = vertex_normals(vertices, triangles)[nearest]  # (V, NEAREST, 3)
        same_side = (around * normals[:, None]).sum(2) > SAME_SIDE
        mean = (around * (same_side / (distance**2 + TINY))[..., None]).sum(1)
        length = np.linalg.norm(mean, axis=1, keepdims=True)
        normals = np.where(same_side.any(1, keepdims=True), mean / np.maximum(length, TINY), normals)
    return Mesh(coarse_vertices, coarse, normals.astype(np.float32))


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals (V, 3): the area-weighted mean over the faces at the vertex.

    Where all faces are degenerate, use the mean of the neighbouring vertices, or else the y axis.
    """
    a, b, c = (vertices[faces[:, i]].astype(np.float64) for i in range(3))
    across = np.cross(b - a, c - a)
    normals = np.stack([np.bincount(faces.reshape(-1), np.repeat(n, 3), len(vertices)) for n in across.T], axis=1)
    length = np.linalg.norm(normals, axis=1)
    for vertex in np.flatnonzero(length < TINY):
        around = normals[faces[(faces == vertex).any(axis=1)]].sum(axis=(0, 1))
        normals[vertex] = around if np.linalg.norm(around) >= TINY else (0.0, 1.0, 0.0)
    return (normals / np.linalg.norm(normals, axis=1, keepdims=True)).astype(np.float32)
