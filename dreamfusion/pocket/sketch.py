"""A coarse drawing of what text and camera ask for, as feature maps that the UNet's decoder is given.

A UNet told its condition only as one vector has to draw a silhouette into pure noise with layers that hardly know where
they are; this small generator (vector -> 4x4 -> 8x8 -> 16x16) gives every place its own features at once. They enter
where a ControlNet's would (Zhang et al. 2023): added to the skip connections and to the middle block.
"""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn


class Sketch(ModelMixin, ConfigMixin):
    """Condition (B, D) -> residuals for a three-level UNet of one resnet a level, 16x16 at its finest."""

    @register_to_config
    def __init__(self, condition: int, channels: tuple[int, int, int], hidden: int = 384, width: int = 128) -> None:
        super().__init__()
        self.width = width
        self.embed = nn.Sequential(
            nn.Linear(condition, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, width * 16)
        )
        self.coarse, self.middle, self.fine = (_Refine(width) for _ in range(3))
        self.grow = nn.Upsample(scale_factor=2, mode="nearest")
        self.to_fine, self.to_middle, self.to_coarse, self.to_bottom = (
            _silent(width, channel) for channel in (channels[0], channels[1], channels[2], channels[2])
        )

    def forward(self, condition: Tensor) -> tuple[list[Tensor], Tensor]:
        """-> residuals of the six skip connections in the encoder's order, and of the middle block."""
        coarse = self.coarse(self.embed(condition).view(-1, self.width, 4, 4))
        middle = self.middle(self.grow(coarse))
        fine = self.to_fine(self.fine(self.grow(middle)))
        none = torch.zeros((), dtype=fine.dtype, device=fine.device)  # the downsampled copies need no second telling
        return [fine, fine, none, self.to_middle(middle), none, self.to_coarse(coarse)], self.to_bottom(coarse)


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
