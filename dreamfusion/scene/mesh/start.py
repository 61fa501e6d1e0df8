"""Begin a mesh scene from a triangle mesh: signed distances on its lattice, and its colours in the field."""

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from dreamfusion.camera.orbit import FOV, look_from, spherical
from dreamfusion.camera.rays import cast_rays
from dreamfusion.error import UserError
from dreamfusion.ops.rasterize import RasterMesh, rasterize
from dreamfusion.ops.rasterize.solid import solid
from dreamfusion.scene.nerf.field import Field

NEAREST = 0.05  # cells: least distance of a lattice point from the surface
VIEWS, SIZE, AWAY = 26, 128, 3.2  # renders that show the colours: number, pixels a side, radii from the centre
GOLDEN = 137.508  # degrees between views that spread over a sphere
STEPS, POINTS = 200, 8192  # of the fit of the colours: steps, points each
RATES, RATE = {"table": 0.02}, 0.003  # learning rates by parameter, and of the others
SEED = 0


def signed_distance(mesh: RasterMesh, radius: float, side: int) -> Tensor:
    """Distance from the surface at the points of a lattice over [-radius, radius]^3, in cells, negative inside.

    Next to the surface, 1 / d^2 = sum of 1 / d_a^2 over the axes on which the surface lies between the point and a
    neighbour, d_a away: exact for planes that all axes cross there. Elsewhere the distance to the nearest point of the
    other side.

    Raises:
        UserError: no lattice point is inside.
    """
    corners = (np.asarray(mesh.vertices, np.float64)[mesh.faces] + radius) * (side / (2 * radius))
    inside, places = solid(corners, side)
    if not inside.any():
        raise UserError(
            f"the mesh to start from encloses no point of a lattice of {side} cells a side: it is open or too thin; "
            "close its holes, or type scene.resolution=128"
        )
    inverse = np.zeros(inside.shape)  # 1 / d^2
    for axis in range(3):
        order = (slice(None),) * axis
        before, after = (*order, slice(None, -1)), (*order, slice(1, None))
        crossed, place = inside[before] != inside[after], places[axis][after]
        near = np.zeros(inside.shape)
        for end, away in ((before, place), (after, 1 - place)):
            near[end] = np.maximum(near[end], np.where(crossed, 1 / np.maximum(away, NEAREST) ** 2, 0.0))
        inverse += near
    far = np.maximum(distance_transform_edt(inside), distance_transform_edt(~inside)) - 0.5
    distance = np.where(inverse > 0, 1 / np.sqrt(np.maximum(inverse, 1e-9)), far)
    return torch.from_numpy(np.where(inside, -distance, distance)).float()


def teach_colors(field: Field, mesh: RasterMesh) -> None:
    """Fit the field's albedo to the colours of the mesh, as renders from all sides show them."""
    generator = torch.Generator().manual_seed(SEED)
    positions, colors = seen_colors(mesh, field.radius)
    named, device = dict(field.named_parameters()), next(field.parameters()).device
    learned = {name: parameter.requires_grad for name, parameter in named.items()}
    field.requires_grad_(True)
    optimizer = torch.optim.Adam(
        [{"params": [parameter], "lr": RATES.get(name, RATE)} for name, parameter in named.items()],
        betas=(0.9, 0.99),
        eps=1e-15,
    )
    with torch.enable_grad():
        for _ in range(STEPS if len(positions) else 0):
            index = torch.randint(len(positions), (POINTS,), generator=generator)
            optimizer.zero_grad()
            albedo = field(positions[index].to(device)).albedo
            (albedo - colors[index].to(device)).square().mean().backward()
            optimizer.step()
    optimizer.zero_grad()
    for name, parameter in named.items():
        parameter.requires_grad_(learned[name])


def seen_colors(mesh: RasterMesh, radius: float) -> tuple[Tensor, Tensor]:
    """Points (N, 3) on the mesh that are seen from around it, and their colours (N, 3)."""
    turn = torch.arange(VIEWS) + 0.5
    elevation = torch.rad2deg(torch.asin(1 - 2 * turn / VIEWS))
    position = spherical(turn * GOLDEN, elevation, torch.full((VIEWS,), AWAY * radius))
    up = torch.tensor([0.0, 1.0, 0.0]).expand(VIEWS, 3)
    fov = torch.full((VIEWS,), FOV)
    cameras = look_from(position, torch.zeros(VIEWS, 3), up, fov, position, SIZE, SIZE)
    drawn, rays = rasterize(mesh, cameras, supersample=1), cast_rays(cameras)
    hit = torch.from_numpy(drawn.alpha.reshape(-1) > 0)
    depth = torch.from_numpy(drawn.depth.reshape(-1))[hit, None]
    return rays.origins[hit] + depth * rays.directions[hit], torch.from_numpy(drawn.albedo.reshape(-1, 3))[hit]
