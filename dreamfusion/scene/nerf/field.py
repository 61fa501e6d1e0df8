"""What a scene representation is to the renderer and to the export (stage 7)."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from dreamfusion.types import FieldOutput


class Field(nn.Module):
    """Density and albedo at points of the ball of radius `radius` around the origin."""

    radius: float

    @abstractmethod
    def forward(self, positions: Tensor, with_normal: bool = False) -> FieldOutput:
        """(S, 3) -> density, albedo and, where asked, the unit normal -grad(density) / |grad(density)|."""

    @abstractmethod
    def density(self, positions: Tensor) -> Tensor:
        """(S, 3) -> (S,); zero outside the bounding ball."""
