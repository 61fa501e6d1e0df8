"""Stage 7: the scene as a hash grid (Müller et al. 2022) and a small network: density, albedo, analytic normals.

Letters: x position in scene units, R bounding radius; the network's first output plus a density blob goes through the
density's activation (Poole et al. 2022, Eq. 6 and App. A.2).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dreamfusion.field.base import Field
from dreamfusion.ops.hash_encode import hash_encode
from dreamfusion.ops.hash_grid_layout import HashGridLayout
from dreamfusion.types import FieldOutput


class HashGridField(Field):
    """Density and albedo at points of the ball of radius `radius`; empty outside it."""

    def __init__(
        self,
        radius: float,
        levels: int,
        features: int,
        log2_table_size: int,
        base_resolution: int,
        max_resolution: int,
        hidden: int,
        blob_density: float,
        blob_radius: float,
        density_scale: float = 1.0,
    ) -> None:
        """The blob adds `blob_density * (1 - |x| / blob_radius)` before the activation (softplus)."""
        super().__init__()
        self.radius, self.blob_density, self.blob_radius = radius, blob_density, blob_radius
        self.density_scale = density_scale
        self.layout = HashGridLayout(levels, features, log2_table_size, base_resolution, max_resolution)
        self.table = nn.Parameter(torch.empty(self.layout.parameter_count).uniform_(-1e-4, 1e-4))
        # tiny-cuda-nn's fully fused network: no biases, rows are outputs.
        self.hidden_weight = nn.Parameter(torch.empty(hidden, levels * features))
        self.output_weight = nn.Parameter(torch.empty(4, hidden))
        nn.init.kaiming_uniform_(self.hidden_weight, a=math.sqrt(5))
        nn.init.kaiming_uniform_(self.output_weight, a=math.sqrt(5))

    def forward(self, positions: Tensor, with_normal: bool = False) -> FieldOutput:
        """(S, 3) -> density, albedo and, where asked, the unit normal -grad(density) / |grad(density)|."""
        if not with_normal:
            raw, albedo = self._evaluate(positions)
            return FieldOutput(self.density_scale * F.softplus(raw), albedo, None)
        grad_wanted = torch.is_grad_enabled()
        with torch.enable_grad():
            positions = positions.detach().requires_grad_()
            raw, albedo = self._evaluate(positions)
            # The activation is increasing, so the gradient before it has the same direction.
            (gradient,) = torch.autograd.grad(raw.sum(), positions, create_graph=grad_wanted)
        # Where the density is flat the normal is 0; the bound keeps its derivative finite.
        normal = -gradient / gradient.square().sum(-1, keepdim=True).clamp(min=1e-12).sqrt()
        density = self.density_scale * F.softplus(raw)
        if not grad_wanted:
            density, albedo, normal = density.detach(), albedo.detach(), normal.detach()
        return FieldOutput(density, albedo, normal)

    def density(self, positions: Tensor) -> Tensor:
        """(S, 3) -> (S,); zero outside the bounding ball."""
        raw, _ = self._evaluate(positions)
        inside = positions.square().sum(-1) <= self.radius**2
        return self.density_scale * F.softplus(raw) * inside

    def _evaluate(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        encoded = hash_encode(positions / (2 * self.radius) + 0.5, self.table, self.layout)
        output = F.linear(torch.relu(F.linear(encoded, self.hidden_weight)), self.output_weight)
        # The bound keeps the derivative of |x| finite at the origin.
        distance = positions.square().sum(-1).clamp(min=1e-12).sqrt()
        blob = self.blob_density * (1 - distance / self.blob_radius)
        return output[:, 0] + blob, torch.sigmoid(output[:, 1:])
