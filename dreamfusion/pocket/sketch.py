"""A coarse drawing of what text and camera ask for, as feature maps that the UNet's decoder is given.

A UNet told its condition only as one vector has to draw a silhouette into pure noise with layers that hardly know
where they are; this small generator (vector -> coarsest level -> finest) gives every place its own features at once.
They enter where a ControlNet's would (Zhang et al. 2023): added to the skip connections and to the middle block.
"""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn


class Sketch(ModelMixin, ConfigMixin):
    """Condition (B, D) -> residuals for a UNet."""

    @register_to_config
    def __init__(
        self,
        condition: int,
        channels: tuple[int, ...],
        layers_per_block: int = 1,
        coarsest: int = 4,
        hidden: int = 384,
        width: int = 128,
    ) -> None:
        """`channels` of the UNet's levels, finest first; `coarsest` is the side of the last one."""
        super().__init__()
        self.width, self.coarsest, self.layers_per_block = width, coarsest, layers_per_block
        self.embed = nn.Sequential(
            nn.Linear(condition, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, width * coarsest**2),
        )
        self.refine = nn.ModuleList(_Refine(width) for _ in channels)  # coarsest first
        self.out = nn.ModuleList(_silent(width, channel) for channel in channels)  # finest first
        self.bottom = _silent(width, channels[-1])
        self.grow = nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, condition: Tensor) -> tuple[list[Tensor], Tensor]:
        """-> residuals of the skip connections in the encoder's order, and of the middle block."""
        features = self.embed(condition).view(-1, self.width, self.coarsest, self.coarsest)
        maps: list[Tensor] = []  # finest first
        for level, refine in enumerate(self.refine):
            features = refine(features if level == 0 else self.grow(features))
            maps.insert(0, features)
        told = [out(features) for out, features in zip(self.out, maps, strict=True)]
        none = torch.zeros((), dtype=features.dtype, device=features.device)  # the downsampled copies are told already
        residuals = [told[0]]
        for level, features in enumerate(told):
            residuals += [features] * self.layers_per_block + ([none] if level < len(told) - 1 else [])
        return residuals, self.bottom(maps[-1])


class _Refine(nn.Module):
    """Two convolutions around a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(16, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, features: Tensor) -> Tensor:
        refined: Tensor = features + self.layers(features)
        return refined


def _silent(width: int, channels: int) -> nn.Conv2d:
    """A convolution that starts at zero: the UNet is not disturbed before there is something to say."""
    convolution = nn.Conv2d(width, channels, 1)
    nn.init.zeros_(convolution.weight)
    nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    return convolution
