"""Stage 8: Lambertian shading of samples under a point light (Poole et al. 2022, Eq. 7)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamfusion.types import FieldOutput


@dataclass(frozen=True)
class Shading:
    """c = albedo * (diffuse * max(0, n.l) + ambient), with white albedo if `textureless`."""

    ambient: float = 1.0
    diffuse: float = 0.0
    textureless: bool = False

    @property
    def needs_normal(self) -> bool:
        return self.diffuse > 0

    @property
    def code(self) -> float:
        """Value in `Conditioning.appearance`: -1 textureless, 0 albedo only, 1 Lambertian."""
        return -1.0 if self.textureless else float(self.needs_normal)

    def __call__(self, field: FieldOutput, positions: Tensor, light: Tensor | None) -> Tensor:
        """Colours (S, 3) of S samples at `positions` (S, 3).

        `light`: light position for each sample (S, 3); may be None if no normal is needed.
        """
        # With a gradient of zero: a distributed run needs one of all parameters in all steps.
        albedo = torch.ones_like(field.albedo) + 0 * field.albedo if self.textureless else field.albedo
        if not self.needs_normal:
            return albedo if self.ambient == 1 else albedo * self.ambient
        if field.normal is None or light is None:
            raise ValueError("diffuse shading needs normals and a light; call the field with with_normal=True")
        towards = torch.nn.functional.normalize(light - positions, dim=-1)
        lambertian = (field.normal * towards).sum(-1, keepdim=True).clamp(min=0)
        return albedo * (self.diffuse * lambertian + self.ambient)


ALBEDO = Shading()
TEXTURELESS = Shading(ambient=0.1, diffuse=0.9, textureless=True)
LAMBERTIAN = Shading(ambient=0.1, diffuse=0.9)
