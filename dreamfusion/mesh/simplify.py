"""Decimate a mesh, repair holes and non-manifold edges, and test whether it is watertight (used by `isosurface.py`)."""

import logging

import fast_simplification
import numpy as np
import trimesh
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

log = logging.getLogger(__name__)
ROUNDS = 4  # of repair: a closed hole can touch another part of the surface
APART = 0.01  # of the way from a vertex to the centre of its faces


def simplify(vertices: np.ndarray, faces: np.ndarray, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Decimate to about `target` faces by quadric edge collapses (Garland and Heckbert 1997) and repair the result.

    Args:
        vertices: (V, 3) float32.
        faces: (F, 3) integers.
        target: number of faces; 0, or more than F, keeps all.
    """
    if not 0 < target < len(faces):
        return vertices, faces
    coarse_vertices, coarse_faces = fast_simplification.simplify(
        np.ascontiguousarray(vertices, np.float32), np.ascontiguousarray(faces, np.int32), target_count=target
    )
    return repair(np.asarray(coarse_vertices, np.float32), np.asarray(coarse_faces, np.int64))


def repair(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Repair the surface so that, where possible, exactly two faces share each edge.

    Remove flat flaps (two faces on the same three vertices), separate sheets that only touch, and close holes with a
    fan of triangles around their centre. Sheets that touched are moved apart by 1 % of a triangle: tools that merge
    vertices by position, such as slicers, would join them again.
    """
    for _ in range(ROUNDS):
        vertices, faces = _separate_sheets(vertices, _remove_flaps(faces))
        vertices, faces = _close_holes(vertices, faces)
        if _is_closed(vertices, faces):
            break
    return _move_apart(vertices, faces), faces


def is_watertight(vertices: np.ndarray, faces: np.ndarray) -> bool:
    """Whether exactly two faces with consistent winding share every edge of the mesh as a slicer reads it: vertices of
    one position are one vertex."""
    places, place = np.unique(vertices, axis=0, return_inverse=True)
    a, b, c = merged = place.reshape(-1)[faces.T]
    return _is_closed(places, merged.T[(a != b) & (b != c) & (c != a)])


def _is_closed(vertices: np.ndarray, faces: np.ndarray) -> bool:
    """Whether exactly two faces with consistent winding share every edge, by the numbers of their vertices."""
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    return bool(mesh.is_watertight and mesh.is_winding_consistent)


def _remove_flaps(faces: np.ndarray) -> np.ndarray:
    """Remove degenerate faces, and faces that share all three vertices with another face."""
    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (c != a)]
    _, same, count = np.unique(np.sort(faces, axis=1), axis=0, return_inverse=True, return_counts=True)
    return faces[count[same.reshape(-1)] == 1]


def _separate_sheets(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Duplicate vertices so that each fan of faces connected by two-face edges has its own."""
    pairs, shared = trimesh.graph.face_adjacency(faces, return_edges=True)  # (N, 2) each: of edges of exactly two faces
    ends = [[(faces[face] == vertex[:, None]).argmax(axis=1) for vertex in shared.T] for face in pairs.T]  # corners
    forward, other = [(end - start) % 3 == 1 for start, end in ends]
    links = [[(3 * pairs[:, i] + ends[i][end])[forward != other] for i in range(2)] for end in range(2)]
    joined = np.concatenate(links, axis=1)
    graph = coo_array((np.ones(joined.shape[1], bool), tuple(joined)), shape=(faces.size, faces.size))
    count, label = connected_components(graph, directed=False)
    separate = np.empty((count, 3), vertices.dtype)
    separate[label] = vertices[faces.reshape(-1)]
    return separate, label.reshape(faces.shape).astype(np.int64)


def _move_apart(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Move vertices that have the position of another one APART of the way to the centre of their own faces."""
    _, place, count = np.unique(vertices, axis=0, return_inverse=True, return_counts=True)
    touching = count[place.reshape(-1)] > 1
    centre, corners = np.zeros_like(vertices), np.bincount(faces.reshape(-1), minlength=len(vertices))
    np.add.at(centre, faces.reshape(-1), np.repeat(vertices[faces].mean(axis=1), 3, axis=0))
    moved = vertices + APART * (centre / np.maximum(corners, 1)[:, None] - vertices)
    return np.where(touching[:, None], moved, vertices).astype(vertices.dtype)


def _close_holes(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fill each loop of boundary edges with a fan around its centre; a loop of three edges with one triangle."""
    edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    codes, back = edges[:, 0] * len(vertices) + edges[:, 1], edges[:, 1] * len(vertices) + edges[:, 0]
    following = {int(a): int(b) for b, a in edges[~np.isin(back, codes)]}  # opposite to the winding of the face
    added: list[list[int]] = []
    middles: list[np.ndarray] = []
    while following:
        loop = [next(iter(following))]
        while (after := following.pop(loop[-1], None)) is not None and after != loop[0]:
            loop.append(after)
        if after is None or len(loop) < 3:
            continue
        if len(loop) == 3:
            added.append(loop)
            continue
        middle = len(vertices) + len(middles)
        middles.append(vertices[loop].mean(axis=0))
        added += [[a, b, middle] for a, b in zip(loop, [*loop[1:], loop[0]], strict=True)]
    if middles:
        vertices = np.concatenate([vertices, np.asarray(middles, vertices.dtype)])
    return vertices, np.concatenate([faces, np.asarray(added, np.int64)]) if added else faces
