"""Facts that decide whether a mesh can be printed: volume, thinnest wall and overhang (after `extract.py`)."""

from dataclasses import dataclass

import numpy as np
import trimesh
from scipy.spatial import cKDTree

from dreamfusion.types import Mesh

POINTS = 10_000  # on the surface, uniform in area
THIN = 0.01  # share of the surface whose wall is thinner than the reported one: points and edges of solids are as thin
OPPOSITE = 40.0  # degrees; two sides are a wall if their normals are opposite to at most this plus SPREAD, at least to
SPREAD = 20.0  # this minus SPREAD, the largest angle to the nearest of the 42 directions that stand for the normals
TOUCHING = 1e-4  # of a radius: how far a point may be inside of a sphere that touches it
ROUNDS = 20  # of shrinking a sphere; on meshes of scenes 4 to 8 change it
LEAF = 64  # points; all points of a side are about as far from the centre of a sphere that is too large, so that a
# tree excludes few of them, and comparing many at once is twice as fast as with the 16 of the default
STEEP = 45.0  # degrees below the horizontal, above which a normal belongs to an overhang
LAYER = 0.002  # of the longest side: faces this close to the lowest point stand on the plate; 0.2 mm of 100 mm


@dataclass(frozen=True)
class PrintFacts:
    """Lengths in the units of the mesh."""

    volume: float | None  # None for a surface that is not closed
    thinnest_wall: float | None  # None without two sides that are opposite
    overhang: float  # share of the surface


def print_facts(mesh: Mesh, watertight: bool) -> PrintFacts:
    """The facts of a mesh with y up."""
    surface = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    return PrintFacts(float(surface.volume) if watertight else None, thinnest_wall(mesh), _overhang(surface))


def thinnest_wall(mesh: Mesh) -> float | None:
    """The wall than which 1 % of the surface is thinner: diameters of the largest spheres inside of the solid.

    From each of POINTS points of the surface, a sphere that touches it there shrinks until it contains no point of an
    opposite side (Ma et al. 2012, the shrinking ball); it then touches the plane of the last such point. Exact for
    parallel walls, also for those thinner than the points are apart; sides that meet, as at the edge of a box, are no
    walls.
    """
    surface = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    points, face = trimesh.sample.sample_surface(surface, POINTS, seed=0)
    normals = surface.face_normals[face]
    directions = trimesh.creation.icosphere(subdivisions=1).vertices
    nearest = (normals @ directions.T).argmax(axis=1)
    wall, largest = np.full(len(points), np.inf), float(np.ptp(mesh.vertices, axis=0).min())
    for number, direction in enumerate(directions):
        own, other = nearest == number, normals @ direction < -np.cos(np.radians(OPPOSITE))
        if own.any() and other.any():
            wall[own] = _diameters(points[own], normals[own], points[other], normals[other], largest)
    found = float(np.sort(wall)[int(THIN * len(wall))])
    return found if np.isfinite(found) else None


def _diameters(p: np.ndarray, n: np.ndarray, points: np.ndarray, normals: np.ndarray, largest: float) -> np.ndarray:
    """Diameters (N,) of the largest spheres that touch p (N, 3) below normals n and contain none of the points (M, 3).

    inf where a sphere of radius `largest` contains none.
    """
    tree, found = cKDTree(points, LEAF), np.full(len(p), np.inf)
    radius, active = np.full(len(p), largest), np.arange(len(p))  # spheres that may still contain a point
    for _ in range(ROUNDS):
        distance, index = tree.query(p[active] - radius[active, None] * n[active])
        inside = distance < radius[active] * (1 - TOUCHING)
        active, index = active[inside], index[inside]
        if not len(active):
            break
        across, own, m = p[active] - points[index], n[active], normals[index]
        through = (across**2).sum(1) / (2 * (across * own).sum(1))  # touches p and meets the point
        plane = -(across * m).sum(1) / (1 - (own * m).sum(1))  # touches p and the plane of the point
        radius[active] = through
        found[active] = 2 * np.where(plane > 0, plane, through)
    return found


def _overhang(surface: trimesh.Trimesh) -> float:
    """The share of the surface with normals more than STEEP degrees below the horizontal, without what stands."""
    height = surface.vertices[:, 1] - surface.vertices[:, 1].min()
    stands = (height[surface.faces] <= LAYER * np.ptp(surface.vertices, axis=0).max()).all(axis=1)
    hangs = (surface.face_normals[:, 1] < -np.sin(np.radians(STEEP))) & ~stands
    return float(surface.area_faces[hangs].sum() / surface.area)
