"""A field that is given on a lattice, such as the density of Gaussians, for the extraction of a mesh."""

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, normalize

from dreamfusion.scene.nerf.field import Field
from dreamfusion.types import FieldOutput

LEAST = 1e-6  # per scene unit: density of a colour that counts


class GridField(Field):
    """Trilinear interpolation of density, and of albedo by density; empty outside the ball."""

    grid: Tensor

    def __init__(self, grid: Tensor, radius: float) -> None:
        """`grid`: (side, side, side, 4) by x, y, z: density per scene unit, albedo."""
        super().__init__()
        self.radius = radius
        # Colours are interpolated by their density: an empty neighbour is black, and must not darken a surface.
        weighted = torch.cat([grid[..., :1], grid[..., 1:] * grid[..., :1]], dim=-1)
        self.register_buffer("grid", weighted.permute(3, 2, 1, 0).contiguous(), persistent=False)  # z, y, x

    def forward(self, positions: Tensor, with_normal: bool = False) -> FieldOutput:
        """See `Field.forward`."""
        values = self._values(self.grid, positions)
        normal = None
        if with_normal:
            with torch.enable_grad():
                places = positions.detach().requires_grad_()
                (slope,) = torch.autograd.grad(self._values(self.grid[:1], places).sum(), places)
            normal = -normalize(slope, dim=-1)
        albedo = values[1:] / values[0].clamp(min=LEAST)
        return FieldOutput(self._inside(values[0], positions), albedo.T, normal)

    def density(self, positions: Tensor) -> Tensor:
        """See `Field.density`."""
        return self._inside(self._values(self.grid[:1], positions)[0], positions)

    def _values(self, grid: Tensor, positions: Tensor) -> Tensor:
        """(C, S) of the channels of `grid`."""
        place = (positions / self.radius)[None, None, None]
        return grid_sample(grid[None], place, align_corners=True)[0, :, 0, 0]

    def _inside(self, density: Tensor, positions: Tensor) -> Tensor:
        return torch.where(positions.norm(dim=-1) < self.radius, density, 0.0)
