"""Random choice of the shading of a training step (Poole et al. 2022, App. A.2)."""

from dataclasses import dataclass

import torch

from dreamfusion.scene.shading import ALBEDO, Shading


@dataclass(frozen=True)
class Lighting:
    """Albedo only until progress `albedo_until`; then a fraction `lit` is lit, of which `textureless` in white."""

    albedo_until: float
    lit: float
    textureless: float
    ambient: float

    def __post_init__(self) -> None:
        for name in ("albedo_until", "lit", "textureless", "ambient"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"system.lighting.{name} is {getattr(self, name)}, expected a fraction in [0, 1]")

    def draw(self, progress: float, generator: torch.Generator) -> Shading:
        """Draw the shading of one step; always takes two numbers from the generator."""
        lit, textureless = torch.rand(2, generator=generator).tolist()
        if progress < self.albedo_until or lit >= self.lit:
            return ALBEDO
        return Shading(self.ambient, 1 - self.ambient, textureless=textureless < self.textureless)
