"""Stage 7: a hash grid (Müller et al. 2022) with a small MLP that gives density, albedo and analytic normals.

density = density_scale * softplus(first output + blob(x)), with the position x in scene units (Poole et al. 2022, Eq. 6
and App. A.2).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dreamfusion.ops.backend import choose
from dreamfusion.ops.hash_field import hash_field
from dreamfusion.ops.hash_grid.layout import HashGridLayout
from dreamfusion.ops.precision import kernel_precision
from dreamfusion.scene.nerf.field import Field, check_radius
from dreamfusion.schedule import ScheduleLike, schedule
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
        density_scale: float,
        precision: str,
        open_levels: ScheduleLike,
    ) -> None:
        """The blob adds `blob_density * (1 - |x| / blob_radius)` before the activation (softplus).

        Args:
            radius: of the bounding sphere, scene units.
            levels, features, log2_table_size, base_resolution, max_resolution: see `HashGridLayout`.
            hidden: units of the hidden layer.
            blob_density, blob_radius: of the initial blob.
            density_scale: factor of the softplus, per scene unit.
            precision: of the products in the CPU kernel (`hash_field`): "auto", "bfloat16" or "float32".
            open_levels: share of the levels that are trained, the coarse ones; a number, or a schedule over the run.

        Raises:
            ValueError: a length or a number of units that is not above 0, a share outside (0, 1], or an unknown
                precision.
            UserError: the processor does not support the precision.
        """
        super().__init__()
        check_radius("field.radius", radius)
        if min(blob_radius, density_scale) <= 0 or hidden < 1:
            raise ValueError(
                f"field.blob_radius is {blob_radius}, field.density_scale {density_scale}, field.hidden {hidden}; "
                "all must be above 0"
            )
        self.open_levels = schedule(open_levels)
        if not 0 < self.open_levels.lowest <= self.open_levels.highest <= 1:
            raise ValueError(
                f"field.open_levels is {open_levels}; shares lie above 0 and up to 1; type field.open_levels=1.0"
            )
        self.radius, self.blob_density, self.blob_radius = radius, blob_density, blob_radius
        self.density_scale, self.precision = density_scale, kernel_precision(precision)
        self.layout = HashGridLayout(levels, features, log2_table_size, base_resolution, max_resolution)
        self.table = nn.Parameter(torch.empty(self.layout.parameter_count).uniform_(-1e-4, 1e-4))
        # Layout of tiny-cuda-nn's fully fused MLP: no biases, one row an output.
        self.hidden_weight = nn.Parameter(torch.empty(hidden, levels * features))
        self.output_weight = nn.Parameter(torch.empty(4, hidden))
        nn.init.kaiming_uniform_(self.hidden_weight, a=math.sqrt(5))
        nn.init.kaiming_uniform_(self.output_weight, a=math.sqrt(5))

    def forward(self, positions: Tensor, with_normal: bool = False) -> FieldOutput:
        """See `Field.forward`."""
        output, input_gradient = self._network(positions, self.output_weight, with_normal)
        raw, color = output.t().split([1, 3])  # contiguous rows, and so are their gradients
        density = self.density_scale * F.softplus(raw[0] + self._blob(positions))
        albedo = torch.sigmoid(color).t()
        if input_gradient is None:
            return FieldOutput(density, albedo, None)
        # Softplus is increasing, so the gradient before the activation has the direction of the density gradient.
        gradient = input_gradient / (2 * self.radius) + self._blob_gradient(positions)
        # The normal is 0 where the density is constant; the bound keeps its derivative finite.
        normal = -gradient / gradient.square().sum(-1, keepdim=True).clamp(min=1e-12).sqrt()
        return FieldOutput(density, albedo, normal)

    def density(self, positions: Tensor) -> Tensor:
        """Density (S,) at positions (S, 3); zero outside the bounding ball."""
        output, _ = self._network(positions, self.output_weight[:1], False)
        inside = positions.square().sum(-1) <= self.radius**2
        return self.density_scale * F.softplus(output[:, 0] + self._blob(positions)) * inside

    def before_optimizer(self, progress: float) -> None:
        """Keep the levels that are not open yet at their small initial values, at which they add nothing.

        A surface that coarse levels shape first has fewer dents (Li et al. 2023, Neuralangelo, Sec. 3.2; threestudio's
        ProgressiveBandHashGrid).
        """
        count = self.open_count(progress)
        if count < self.layout.levels and self.table.grad is not None:
            self.table.grad[self.layout.offsets[count] * self.layout.features :].zero_()

    def open_count(self, progress: float) -> int:
        """Number of levels that are trained at `progress`, at least one."""
        return max(1, math.floor(self.layout.levels * self.open_levels(progress) + 1e-6))

    def bytes_per_sample(self, with_normal: bool) -> int:
        if choose("hash_field", self.table.device) != "numba":
            return super().bytes_per_sample(with_normal)
        return 640 if with_normal else 192  # 560 and 140 measured

    def _network(self, positions: Tensor, output_weight: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
        unit = (positions / (2 * self.radius)).add_(0.5)
        weights = self.table, self.hidden_weight, output_weight
        return hash_field(unit, *weights, self.layout, with_gradient, precision=self.precision)

    def _blob(self, positions: Tensor) -> Tensor:
        return torch.rsub(_distance(positions)[:, 0], self.blob_density, alpha=self.blob_density / self.blob_radius)

    def _blob_gradient(self, positions: Tensor) -> Tensor:
        return -self.blob_density / self.blob_radius * positions / _distance(positions)


def _distance(positions: Tensor) -> Tensor:
    """Distance from the origin, (S, 1); the bound keeps its derivative finite at the origin."""
    return positions.square().sum(-1, keepdim=True).clamp(min=1e-12).sqrt()
