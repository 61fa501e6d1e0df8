"""`scene=mesh`: a surface of signed distances on a lattice with the colours of a hash grid, rasterised.

The second stage of Magic3D (Lin et al. 2023) and Fantasia3D (Chen et al. 2023). Letters: V F vertices and faces.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from dreamfusion.camera.rays import cast_rays, to_screen
from dreamfusion.error import UserError
from dreamfusion.ops.rasterize import RasterMesh
from dreamfusion.ops.rasterize.differentiable import antialias, edges_of, interpolate, visible
from dreamfusion.scene.base import Scene, Term
from dreamfusion.scene.mesh.dual_grid import dual_surface, lattice_gradient
from dreamfusion.scene.mesh.start import signed_distance, teach_colors
from dreamfusion.scene.nerf.field import Field
from dreamfusion.scene.shading import ALBEDO, Shading
from dreamfusion.types import Cameras, FieldOutput, Mesh, RenderOutput

MARGIN = 2  # cells between the surface and the scene's ball


@dataclass(frozen=True, eq=False)
class MeshRender(RenderOutput):
    """B images with the surface that was drawn."""

    vertices: Tensor  # (V, 3) in cells
    faces: Tensor  # (F, 3)
    edges: Tensor  # (E, 4) of `edges_of`
    slope: Tensor  # (V, 3) gradient of the distances at the vertices' cells


class MeshScene(Scene):
    """A closed surface inside the ball of the field, which gives its colours."""

    draws_whole = True
    least: Tensor  # (N + 1, N + 1, N + 1) smallest distances, cells: they keep the surface inside the ball

    def __init__(
        self,
        field: Field,
        background: nn.Module,
        resolution: int,
        learn: Literal["geometry", "appearance", "both"],
        sphere: float,
    ) -> None:
        """Without a start, the surface is a sphere of radius `sphere`; `learn` names what the training changes.

        Raises:
            ValueError: a value that is not allowed.
        """
        super().__init__()
        if not 8 <= resolution <= 256:
            raise ValueError(f"scene.resolution is {resolution}; it is 8 to 256 cells a side: type scene.resolution=96")
        if learn not in ("geometry", "appearance", "both"):
            raise ValueError(f"scene.learn is {learn}; type scene.learn=geometry, appearance or both")
        if not 0 < sphere < field.radius:
            raise ValueError(
                f"scene.sphere is {sphere}; it must be above 0 and below {field.radius}, the radius of the scene: type "
                "scene.sphere=0.5"
            )
        self.field, self.background, self.radius = field, background, field.radius
        self.cell, self.learn, self.given_shape = 2 * field.radius / resolution, learn, learn == "appearance"
        line = (torch.arange(resolution + 1) / resolution * 2 - 1) * field.radius
        away = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), dim=-1).norm(dim=-1)
        self.register_buffer("least", (away - field.radius) / self.cell + MARGIN, persistent=False)
        self.distance = nn.Parameter((away - sphere) / self.cell, requires_grad=learn != "appearance")
        self.offset = nn.Parameter(torch.zeros(*[resolution] * 3, 3), requires_grad=learn != "appearance")
        for parameter in field.parameters():
            parameter.requires_grad_(learn != "geometry")

    def start_from(self, mesh: RasterMesh) -> None:
        """Take shape and colours of a mesh in scene units.

        Raises:
            UserError: it encloses no lattice point.
        """
        with torch.no_grad():
            self.distance.copy_(signed_distance(mesh, self.radius, len(self.offset)))
            self.offset.zero_()
        teach_colors(self.field, mesh)

    def geometry(self) -> tuple[Tensor, Tensor, Tensor]:
        """Vertices (V, 3) in cells, faces, and cells, see `dual_surface`."""
        return dual_surface(torch.maximum(self.distance, self.least), self.offset)

    def render(
        self,
        cameras: Cameras,
        shading: Shading = ALBEDO,
        with_normal: bool = False,
        generator: torch.Generator | None = None,
        rows: slice = slice(None),
        background: nn.Module | None = None,
    ) -> MeshRender:
        """See `Scene.render`; the generator draws backgrounds only.

        Raises:
            UserError: the surface has vanished, and a training step has nothing to change.
        """
        vertices, faces, cells = self.geometry()
        if generator is not None and len(faces) == 0:
            raise UserError(
                "the mesh has vanished: every distance is positive; type a smaller optimizer.learning_rates.shape or "
                "system.regularizer.opacity"
            )
        edges, places = edges_of(faces), vertices * self.cell - self.radius
        points = to_screen(cameras, places.expand(len(cameras), -1, -1))
        seen, nearest = visible(points.detach(), faces, cameras.height, cameras.width)
        corners = torch.cat([places, vertex_normals(places, faces)], dim=1)
        hit = (seen >= 0).flatten()
        position, normal = interpolate(points, faces, seen, corners).view(-1, 6)[hit].split(3, dim=1)
        normal, rays = normalize(normal, dim=-1), cast_rays(cameras)
        albedo = self.field(position.detach()).albedo
        light = cameras.light.repeat_interleave(cameras.height * cameras.width, dim=0)[hit]
        color = shading(FieldOutput(albedo[:, 0], albedo, normal), position, light)
        behind = (self.background if background is None else background)(rays.directions, len(cameras), generator)
        depth = (position - rays.origins[hit]).norm(dim=-1, keepdim=True)
        front = torch.cat([color, torch.ones_like(depth), depth, normal], dim=1)
        empty = torch.cat([behind, behind.new_zeros(len(behind), 5)], dim=1)
        image = empty.masked_scatter(hit[:, None], front).view(len(cameras), cameras.height, cameras.width, 8)
        image = antialias(image, points, edges, nearest)[:, rows].permute(0, 3, 1, 2)
        return MeshRender(
            rgb=image[:, :3],
            background=behind.detach().view(len(cameras), cameras.height, -1, 3)[:, rows].mean((1, 2)),
            opacity=image[:, 3:4].clamp(0, 1),
            depth=image[:, 4:5],
            normal=image[:, 5:] if with_normal or shading.needs_normal else None,
            vertices=vertices,
            faces=faces,
            edges=edges,
            slope=lattice_gradient(self.distance, cells),
        )

    def parameter_groups(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """`shape`: distances and offsets; `table` and `network` as a NeRF's."""
        named = list(self.field.named_parameters()) if self.learn != "geometry" else []
        networks = [parameter for name, parameter in named if name != "table"]
        return {
            "shape": [self.distance, self.offset] if self.learn != "appearance" else [],
            "table": [parameter for name, parameter in named if name == "table"],
            "network": [*networks, *self.background.parameters()],
        }

    def regularizers(self) -> Mapping[str, Term]:
        return {
            "normal_consistency": Term(normal_consistency),
            "laplacian": Term(laplacian),
            "eikonal": Term(eikonal),
        }

    def figures(self, render: RenderOutput) -> Mapping[str, float]:
        assert isinstance(render, MeshRender)
        return {"triangles": len(render.faces)}

    @torch.no_grad()
    def surface(self) -> Mesh:
        """The surface without colours, which `surface_albedo` gives at any point."""
        vertices, faces, _ = self.geometry()
        places = (vertices * self.cell - self.radius).cpu()
        return Mesh(places.numpy(), faces.cpu().numpy(), vertex_normals(places, faces.cpu()).numpy())

    def surface_albedo(self, positions: Tensor) -> Tensor:
        albedo: Tensor = self.field(positions).albedo
        return albedo


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Unit normals (V, 3): the area-weighted mean over the faces at the vertex."""
    a, b, c = (vertices.index_select(0, faces[:, i]) for i in range(3))
    across = torch.linalg.cross(b - a, c - a)
    total = torch.zeros_like(vertices).index_add(0, faces.T.flatten(), across.repeat(3, 1))
    return normalize(total, dim=-1, eps=1e-12)


def normal_consistency(render: RenderOutput) -> Tensor:
    """Mean over edges of 1 - cos of the angle between the normals of their two faces."""
    assert isinstance(render, MeshRender)
    two = render.edges[:, 3] >= 0  # not chosen by it: their number would wait for a GPU, the prior's network included
    a, b, one, other = (render.vertices.index_select(0, end.clamp(min=0)) for end in render.edges.T)
    normals = torch.linalg.cross(b - a, one - a), torch.linalg.cross(other - a, b - a)
    return ((1 - cosine_similarity(*normals, dim=-1)) * two).sum() / two.sum()


def laplacian(render: RenderOutput) -> Tensor:
    """Mean squared distance of a vertex from the mean of its neighbours, in cells."""
    assert isinstance(render, MeshRender)
    vertices, ends = render.vertices, render.edges[:, :2].T
    both, others = ends.flatten(), ends.flip(0).flatten()
    total = torch.zeros_like(vertices).index_add(0, both, vertices.index_select(0, others))
    count = vertices.new_zeros(len(vertices)).index_add(0, both, vertices.new_ones(len(both)))
    return (vertices - total / count.clamp(min=1)[:, None]).square().sum(1).mean()


def eikonal(render: RenderOutput) -> Tensor:
    """Mean over the surface's cells of (|gradient of the distance| - 1)^2."""
    assert isinstance(render, MeshRender)
    # The bound keeps the derivative of the square root finite.
    return (render.slope.square().sum(1).clamp(min=1e-12).sqrt() - 1).square().mean()
