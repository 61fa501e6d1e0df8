"""Rays through the cube of a feature volume: which cells of an image are looked at, and the sample points of each.

Letters: B images; N samples on a ray, R rays a side.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamfusion.camera.orbit import FOV

HALF_EXTENT = 1.1  # scene units from the centre to a face of the volume; half of the sampled ray length
OUTSIDE = 2.0  # a coordinate outside every volume


@dataclass(frozen=True, eq=False)
class Window:
    """Cells of B images that are looked at, as many in each."""

    rows: Tensor  # (B, side) int64
    columns: Tensor  # (B, side) int64

    @property
    def side(self) -> int:
        return self.rows.shape[1]


def camera_axes(camera: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Right, up and back of camera features (B, 12), (B, 3) each."""
    sin_az, cos_az, sin_el, cos_el = (camera[:, i] for i in (0, 1, 4, 5))
    back = torch.stack([cos_el * sin_az, sin_el, cos_el * cos_az], dim=-1)
    right = torch.stack([cos_az, torch.zeros_like(sin_az), -sin_az], dim=-1)
    return right, torch.cross(back, right, dim=-1), back


def ray_points(
    camera: Tensor,
    samples: int,
    rays: int | None = None,
    places: Tensor | None = None,
    window: Window | None = None,
) -> Tensor:
    """Camera features (B, 12) of `denoiser.camera_features` -> sample points (B, R^2, N, 3), N = `samples`, R = `rays`.

    Coordinates are in the volume's [-1, 1]; points outside the unit sphere get an OUTSIDE coordinate. Rays pass through
    the centres of R x R image cells (by default R = N), rows from the top; samples lie in planes perpendicular to the
    view.

    Args:
        places: centre and scale of the volume of each camera, (B, 4); None: the origin, 1.
        window: the cells that are looked at; None: all R x R.
    """
    right, up, back = camera_axes(camera)
    distance = camera[:, 8] * 0.3 + 3
    depths, cells = (
        (torch.arange(n, device=camera.device, dtype=camera.dtype) + 0.5) * (2 / n) - 1
        for n in (samples, rays or samples)
    )
    plane = cells * math.tan(math.radians(FOV / 2))  # image coordinates at unit distance
    rows, columns = (plane[None], plane[None]) if window is None else (plane[window.rows], plane[window.columns])
    direction = (columns[:, None, :, None] * right[:, None, None] - rows[:, :, None, None] * up[:, None, None]) - back[
        :, None, None
    ]  # (B, rows, columns, 3), unit length along the view
    position = distance[:, None] * back
    if places is not None:  # in the coordinates of the object, lengths along the view too
        position = (position - places[:, :3]) / places[:, 3:]
        distance = (position * back).sum(dim=1)
    along = distance[:, None] + depths * HALF_EXTENT  # (B, N)
    points = position[:, None, None, None] + direction[:, :, :, None] * along[:, None, None, :, None]
    points = (points / HALF_EXTENT).flatten(1, 2)
    # Objects lie inside the unit sphere: the corners of the volume hold nothing to learn.
    points[..., 0].masked_fill_(points.square().sum(-1) > 1, OUTSIDE)  # one coordinate is enough
    return points
