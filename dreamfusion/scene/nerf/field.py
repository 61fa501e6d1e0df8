"""Stage 7: the radiance field interface that the renderer and the mesh extraction evaluate."""

from abc import abstractmethod

from torch import Tensor, nn

from dreamfusion.types import FieldOutput

RADIUS = 1e-3, 1e3  # scene units; beyond, float32 marching overflows or loses the step


class Field(nn.Module):
    """Density and albedo at points of the ball of radius `radius` around the origin."""

    radius: float

    @abstractmethod
    def forward(self, positions: Tensor, with_normal: bool = False) -> FieldOutput:
        """Density, albedo and optionally unit normals -grad(density) / |grad(density)| at positions (S, 3)."""

    @abstractmethod
    def density(self, positions: Tensor) -> Tensor:
        """Density (S,) at positions (S, 3); zero outside the bounding ball."""

    def before_optimizer(self, progress: float) -> None:
        """Change the gradients of a training step, at `progress` of the run."""

    def bytes_per_sample(self, with_normal: bool) -> int:
        """Memory that a sample takes from the forward pass until its gradient is known."""
        return 8192 if with_normal else 3072  # the hash grid's torch reference with 16 levels: 7,600 and 2,950 measured


def check_radius(name: str, radius: float) -> None:
    """Raises: ValueError: the setting `name` is outside RADIUS."""
    if not RADIUS[0] <= radius <= RADIUS[1]:
        raise ValueError(f"{name} is {radius}, allowed are {RADIUS[0]:g} to {RADIUS[1]:g} scene units; type {name}=1.0")
