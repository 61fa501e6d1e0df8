"""Project 3D Gaussians to the screen with torch, on every device: the mean exactly, the covariance to first order."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dreamfusion.ops.splat import Screen
from dreamfusion.types import Cameras

NEAR = 0.2  # scene units along the axis; what is nearer is not drawn (Kerbl et al. 2023)
BLUR = 0.3  # pixels^2 added to the variance: a Gaussian is at least about a pixel wide (Kerbl et al. 2023)
THINNEST = 1e-4  # least area of a Gaussian, of the blurred one's, for a finite gradient of its root
BEYOND = 1.3  # half images from the centre at which the slope of the perspective stays constant (Kerbl et al. 2023)


def project_gaussians(cameras: Cameras, means: Tensor, scales: Tensor, rotations: Tensor) -> Screen:
    """N Gaussians for B cameras.

    Args:
        cameras: B cameras.
        means: (N, 3) scene units.
        scales: (N, 3) standard deviations along the axes of the Gaussian, scene units.
        rotations: (N, 4) quaternions w, x, y, z of any length above 0.
    """
    across, up, back, position = (part.T[..., None] for part in cameras.camera_to_world.unbind(-1))  # (3, B, 1) each
    offsets = [line - origin for line, origin in zip(_lines(means), position, strict=True)]  # (B, N) each
    right, above, behind = (_dot(axis, offsets) for axis in (across, up, back))
    drawn = behind < -NEAR
    ahead = torch.where(drawn, -behind, 1.0)
    half = torch.tan(torch.deg2rad(cameras.fov) / 2)[:, None]
    focal = cameras.height / 2 / half  # (B, 1) pixels
    x, y, share = right / ahead, -above / ahead, focal / ahead
    tall = BEYOND * half
    wide = tall * (cameras.width / cameras.height)
    slope_x, slope_y = x.clamp(-wide, wide), y.clamp(-tall, tall)
    # Rows of the Jacobian of (column, row) by the position in the world: three (B, N) each.
    column = [share * (u + slope_x * z) for u, z in zip(across, back, strict=True)]
    row = [share * (slope_y * z - u) for u, z in zip(up, back, strict=True)]
    axes = _axes(scales, rotations)
    one, two = ([_dot(line, axis) for axis in axes] for line in (column, row))
    xx, yy, xy = _dot(one, one), _dot(two, two), _dot(one, two)
    # Cauchy and Binet: xx yy - xy^2 without its cancellation, which makes needles negative.
    cross = [one[i] * two[j] - one[j] * two[i] for i, j in ((0, 1), (1, 2), (2, 0))]
    own = _dot(cross, cross)
    area = own + BLUR * (xx + yy) + BLUR**2
    conics = torch.stack([(yy + BLUR) / area, -xy / area, (xx + BLUR) / area], dim=-1)
    places = torch.stack([cameras.width / 2 + focal * x, cameras.height / 2 + focal * y], dim=-1)
    # The blur keeps the integral of the alpha, so that renders of all sizes show the same shape (Yu et al. 2024).
    shares = (own / area).clamp(min=THINNEST).sqrt()
    return Screen(places, conics, shares, torch.where(drawn, ahead, 0.0).detach())


def rotation_matrices(quaternions: Tensor) -> Tensor:
    """Rotations (N, 3, 3) of quaternions (N, 4) w, x, y, z of any length above 0."""
    axes = _axes(torch.ones_like(quaternions[:, :3]), quaternions)
    return torch.stack([torch.stack(axis, dim=-1) for axis in axes], dim=-1)


def _axes(scales: Tensor, rotations: Tensor) -> list[list[Tensor]]:
    """The axes of N Gaussians, each with the length of its standard deviation, as three lists of x, y, z (N,)."""
    w, x, y, z = _lines(normalize(rotations, dim=-1))
    matrix = (
        (1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)),
        (2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)),
        (2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)),
    )
    return [[scale * part for part in axis] for scale, axis in zip(_lines(scales), matrix, strict=True)]


def _lines(values: Tensor) -> tuple[Tensor, ...]:
    """The columns of (N, C), each contiguous: torch is slow on axes of three elements."""
    return values.T.contiguous().unbind()


def _dot(one: Any, two: Any) -> Tensor:
    a, b, c = (first * second for first, second in zip(one, two, strict=True))
    return a + b + c
