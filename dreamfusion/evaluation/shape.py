"""Compare two closed surfaces: volumes, distances, and the similarity that aligns one with the other.

Letters: V F vertices and faces, N points, G^3 cells of a grid over the cube [-EXTENT, EXTENT]^3.
"""

from dataclasses import dataclass, replace

import numpy as np
import trimesh
from scipy.spatial import cKDTree

from dreamfusion.mesh.printing import thinnest_wall
from dreamfusion.types import Mesh

EXTENT = 1.1  # scene units
CELLS = 128  # along a side
POINTS = 20_000  # on a surface, for distances
OFFSET = 1e-3  # of a cell, with which columns miss vertices and edges
FEW, ROUNDS, STARTS = 1000, 15, 8  # of the alignment: points, iterations, angles around the vertical axis


@dataclass(frozen=True, eq=False)
class Similarity:
    """x -> scale * rotation x + translation."""

    scale: float
    rotation: np.ndarray  # (3, 3)
    translation: np.ndarray  # (3,)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        return self.scale * points @ self.rotation.T + self.translation


def cell_centers() -> np.ndarray:
    """(G, G, G, 3) scene units, axes x, y, z."""
    axis = (np.arange(CELLS) + 0.5) * (2 * EXTENT / CELLS) - EXTENT
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)


def occupancy(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """The cells whose centres have a positive winding number, (G, G, G) bool, axes x, y, z.

    Rays along z through the cells' centres sum the signs of the faces that they cross: exact for closed surfaces.
    """
    places = (vertices.astype(np.float64) + EXTENT) * (CELLS / (2 * EXTENT)) - 0.5 + OFFSET * np.array([1, 2**0.5, 0])
    corners = places[faces]  # (F, 3, 3) in cells
    low = np.ceil(corners[..., :2].min(axis=1)).astype(int).clip(0, CELLS)
    span = (np.floor(corners[..., :2].max(axis=1)).astype(int).clip(-1, CELLS - 1) - low + 1).clip(0)
    count = span.prod(axis=1)
    face = np.repeat(np.arange(len(faces)), count)
    rank = np.arange(len(face)) - np.repeat(np.cumsum(count) - count, count)
    column = low[face] + np.stack([rank // span[face, 1].clip(1), rank % span[face, 1].clip(1)], axis=1)
    a, b, c = (corners[face, i] for i in range(3))

    def area(p: np.ndarray, q: np.ndarray, r: np.ndarray) -> np.ndarray:
        return np.asarray((q[:, 0] - p[:, 0]) * (r[:, 1] - p[:, 1]) - (q[:, 1] - p[:, 1]) * (r[:, 0] - p[:, 0]))

    whole = area(a, b, c)
    parts = np.stack([area(b, c, column), area(c, a, column), area(a, b, column)], axis=1) * np.sign(whole)[:, None]
    hit = (parts >= 0).all(axis=1) & (whole != 0)
    height = (parts[hit] * np.stack([p[hit, 2] for p in (a, b, c)], axis=1)).sum(1) / np.abs(whole[hit])
    crossings = np.zeros((CELLS, CELLS, CELLS + 1), np.int32)
    first = np.ceil(height).astype(int).clip(0, CELLS)  # the first centre behind the crossing
    np.add.at(crossings, (*column[hit].T, first), -np.sign(whole[hit]).astype(np.int32))
    return np.asarray(crossings.cumsum(axis=2)[..., :-1] > 0)


def iou(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boolean arrays; 0 if both are empty."""
    return float((one & other).sum() / max((one | other).sum(), 1))


def sample_surface(mesh: Mesh, count: int, seed: int = 0) -> np.ndarray:
    """Points (N, 3) uniform in area."""
    rng, (a, b, c) = np.random.default_rng(seed), (mesh.vertices[mesh.faces[:, i]].astype(np.float64) for i in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    face = rng.choice(len(area), count, p=area / area.sum())
    u, v = rng.random((2, count, 1))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    return np.asarray(a[face] + u * (b - a)[face] + v * (c - a)[face])


def distances(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance of each point of one set to the nearest of the other, both ways."""
    return cKDTree(other).query(one)[0], cKDTree(one).query(other)[0]


def f_score(there: np.ndarray, back: np.ndarray, threshold: float) -> float:
    """Harmonic mean of the shares of distances below a threshold (Knapitsch et al. 2017, Eq. 4-6)."""
    precision, recall = (there < threshold).mean(), (back < threshold).mean()
    return float(2 * precision * recall / max(precision + recall, 1e-12))


def align(mesh: Mesh, target: Mesh) -> Similarity:
    """The similarity that maps `mesh` onto `target`: iterated closest points from STARTS turns, the closest result.

    Each round is the closed form of Umeyama 1991 for the pairs of both directions; rotations are not mirrored.
    """
    source, goal = sample_surface(mesh, FEW), sample_surface(target, FEW, seed=1)
    tree, best, found = cKDTree(goal), np.inf, Similarity(1.0, np.eye(3), np.zeros(3))
    size = [np.sqrt(np.square(points - points.mean(0)).sum(1).mean()) for points in (source, goal)]
    for turn in np.arange(STARTS) * (2 * np.pi / STARTS):
        rotation = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
        scale = size[1] / size[0]
        current = Similarity(scale, rotation, goal.mean(0) - scale * rotation @ source.mean(0))
        for _ in range(ROUNDS):
            moved = current(source)
            forward, backward = tree.query(moved)[1], cKDTree(moved).query(goal)[1]
            current = _umeyama(np.concatenate([source, source[backward]]), np.concatenate([goal[forward], goal]))
        error = sum(float(part.mean()) for part in distances(current(source), goal))
        if error < best:
            best, found = error, current
    return found


def transformed(mesh: Mesh, by: Similarity) -> Mesh:
    """The mesh with its vertices mapped, and its normals rotated."""
    normals = None if mesh.normals is None else (mesh.normals @ by.rotation.T).astype(np.float32)
    return replace(mesh, vertices=by(mesh.vertices).astype(np.float32), normals=normals)


def mesh_facts(mesh: Mesh) -> dict[str, float]:
    """Triangles, connected components, and the thinnest wall in scene units, if there is one."""
    _, place = np.unique(mesh.vertices, axis=0, return_inverse=True)
    faces = place.reshape(-1)[mesh.faces]
    pieces = trimesh.graph.connected_component_labels(
        faces[:, [[0, 1], [1, 2]]].reshape(-1, 2), node_count=faces.max() + 1
    )
    wall = thinnest_wall(mesh)
    return {
        "triangles": len(faces),
        "components": int(pieces.max()) + 1,
        **({} if wall is None else {"thinnest_wall": wall}),
    }


def _umeyama(source: np.ndarray, goal: np.ndarray) -> Similarity:
    """The similarity with the least squared distance between pairs of points (Umeyama 1991, Eq. 40-42)."""
    middle, center = source.mean(0), goal.mean(0)
    u, d, v = np.linalg.svd((goal - center).T @ (source - middle) / len(source))
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ v))])
    rotation = (u * sign) @ v
    scale = float((d * sign).sum() / np.square(source - middle).sum(1).mean())
    return Similarity(scale, rotation, center - scale * rotation @ middle)
