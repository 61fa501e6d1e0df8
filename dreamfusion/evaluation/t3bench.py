"""T3Bench's quality score of a mesh (He et al. 2023): the best region of views, by a judge of pictures.

162 positions on an icosphere of radius 2.2 around the mesh, which is centred on its mean vertex with largest coordinate
1; five fields of view each, of which the best counts; three rounds of averaging over neighbours; the maximum. It sees
one good side only, so it is blind to second faces.
"""

from collections.abc import Callable

import numpy as np
import torch
import trimesh
from torch import Tensor

from dreamfusion.camera.orbit import look_from
from dreamfusion.ops.rasterize import RasterMesh, as_raster, rasterize
from dreamfusion.types import Mesh

SUBDIVISIONS, RADIUS = 2, 2.2
FIELDS = (180 / 3, 180 / 4, 180 / 5, 180 / 6, 180 / 7.5)  # degrees
SIZE = 512  # pixels a side; unlit, over black
ROUNDS = 3

Judge = Callable[[Tensor], Tensor]  # pictures (B, 3, SIZE, SIZE) in [0, 1] -> rewards (B,)


def quality(mesh: Mesh, judge: Judge, size: int = SIZE) -> float:
    """20 times the best averaged reward, plus 50."""
    sphere = trimesh.creation.icosphere(subdivisions=SUBDIVISIONS, radius=RADIUS)
    drawn = normalized(mesh)
    best = np.array([float(judge(pictures(drawn, place, size)).max()) for place in sphere.vertices])
    for _ in range(ROUNDS):
        best = np.array([best[[place, *near]].mean() for place, near in enumerate(sphere.vertex_neighbors)])
    return float(20 * best.max() + 50)


def normalized(mesh: Mesh) -> RasterMesh:
    """The mesh around its mean vertex, with largest coordinate 1."""
    raster = as_raster(mesh)
    vertices = raster.vertices - raster.vertices.mean(axis=0)
    return RasterMesh(
        vertices / np.abs(vertices).max(),
        raster.faces,
        raster.normals,
        raster.colors,
        raster.uv,
        materials=raster.materials,
    )


def pictures(mesh: RasterMesh, place: np.ndarray, size: int) -> Tensor:
    """The five views (5, 3, size, size) from a position; T3Bench's z is our y."""
    x, y, z = (float(value) for value in place)
    position = torch.tensor([[x, z, -y]]).repeat(len(FIELDS), 1)
    up = torch.tensor([0.0, 1.0, 0.0]).expand_as(position)
    cameras = look_from(position, torch.zeros_like(position), up, torch.tensor(FIELDS), position, size, size)
    seen = rasterize(mesh, cameras, supersample=1)
    return torch.from_numpy(seen.albedo * seen.alpha[..., None]).permute(0, 3, 1, 2)
