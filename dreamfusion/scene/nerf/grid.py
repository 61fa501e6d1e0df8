"""A field that is given on a lattice, such as the density of Gaussians, for the extraction of a mesh."""

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, normalize

from dreamfusion.scene.nerf.field import Field
from dreamfusion.types import FieldOutput


class GridField(Field):
    """Trilinear interpolation of density and albedo; empty outside the ball."""

    grid: Tensor

    def __init__(self, grid: Tensor, radius: float) -> None:
        """`grid`: (side, side, side, 4) by x, y, z: density per scene unit, albedo."""
        super().__init__()
        self.radius = radius
        self.register_buffer("grid", grid.permute(3, 2, 1, 0).contiguous(), persistent=False)  # grid_sample: z, y, x

    def forward(self, positions: Tensor, with_normal: bool = False) -> FieldOutput:
        """See `Field.forward`."""
        values = self._values(self.grid, positions)
        normal = None
        if with_normal:
            with torch.enable_grad():
                places = positions.detach().requires_grad_()
                (slope,) = torch.autograd.grad(self._values(self.grid[:1], places).sum(), places)
            normal = -normalize(slope, dim=-1)
        return FieldOutput(self._inside(values[0], positions), values[1:].T, normal)

    def density(self, positions: Tensor) -> Tensor:
        """See `Field.density`."""
        return self._inside(self._values(self.grid[:1], positions)[0], positions)

    def _values(self, grid: Tensor, positions: Tensor) -> Tensor:
        """(C, S) of the channels of `grid`."""
        place = (positions / self.radius)[None, None, None]
        return grid_sample(grid[None], place, align_corners=True)[0, :, 0, 0]

    def _inside(self, density: Tensor, positions: Tensor) -> Tensor:
        return torch.where(positions.norm(dim=-1) < self.radius, density, 0.0)
