"""A drawing of what the text asks for, seen from the camera, made before the UNet looks at the noisy image.

A UNet told text and camera only as vectors has to learn each object anew from every side. This generator makes a small
volume of features from the text alone, looks into it along the camera's own rays (as HoloGAN, Nguyen-Phuoc et al.
2019, turns its features; with the compositing of NeRF for occlusion), and draws colour and opacity from what is seen:
what it learns of an object from one side is there for the other sides.

The features enter the UNet where a ControlNet's would (Zhang et al. 2023): added to the skip connections and to the
middle block. Letters: G texts, V cameras a text, B = G V; N voxels a side, also rays a side and samples a ray.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from dreamfusion.ops.look import look

VOXELS = 16
REACH = 1.1  # scene units from the middle to a face of the volume, and half of the rays' way through it
OUTSIDE = 2.0  # a coordinate that is in no volume
FOV = 40.0  # degrees, of all training renders


@dataclass(frozen=True, eq=False)
class Drawing:
    """What a sketch has to say of B images."""

    rgba: Tensor  # (B, 4, r, r): albedo times opacity, and opacity, about in [0, 1]
    features: Tensor  # (B, C, n, n)

    def where(self, known: Tensor) -> Drawing:
        """Blank and silent in the images of which `known` (B,) is 0."""
        known = known[:, None, None, None]
        return replace(self, rgba=self.rgba * known, features=self.features * known)

    def over(self, background: Tensor) -> Tensor:
        """(B,) grey levels -> images (B, 3, r, r), both in [-1, 1]: the drawing in plain albedo."""
        grey = background[:, None, None, None]
        return (2 * self.rgba[:, :3] - self.rgba[:, 3:]) + grey * (1 - self.rgba[:, 3:])


class Sketch(ModelMixin, ConfigMixin):
    """Sentence vector and camera -> drawing -> residuals for a UNet."""

    @register_to_config
    def __init__(
        self,
        text: int,
        camera: int,
        channels: tuple[int, ...],
        layers_per_block: int = 1,
        finest: int = 8,
        resolution: int = 64,
        hidden: int = 512,
        latent: int = 80,
        heads: int = 4,
        width: int = 64,
    ) -> None:
        """`channels` of the UNet's levels, the `finest` pixels a side first; `latent` channels of the 4^3 voxels that
        the volume grows from.
        """
        super().__init__()
        self.layers_per_block, self.heads, self.finest = layers_per_block, heads, finest
        self.embed = nn.Sequential(nn.Linear(text, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())
        self.seed = nn.Linear(hidden, latent * 4**3)
        self.volume = nn.Sequential(
            _Refine(latent, nn.Conv3d),
            nn.ConvTranspose3d(latent, 48, 2, stride=2),
            _Refine(48, nn.Conv3d),
            nn.SiLU(),
            nn.ConvTranspose3d(48, 8 * heads, 2, stride=2),
        )
        self.tone = nn.Linear(camera + hidden, 2 * width)
        self.gather = nn.Conv2d(9 * heads, width, 3, padding=1)
        self.refine = _Refine(width, nn.Conv2d)
        patch = resolution // VOXELS
        self.paint = nn.Conv2d(width, 4 * patch**2, 1)
        fold = (VOXELS // finest) ** 2
        self.out = nn.ModuleList(_silent(width * fold, channel) for channel in channels)
        self.bottom = _silent(width * fold, channels[-1])
        for layer in (self.embed[0], self.embed[2], self.seed):  # so that texts are told apart from the first step on
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, text: Tensor, camera: Tensor) -> Drawing:
        """(G, D), (G V, 12), the cameras of a text one after the other -> drawings of G V images."""
        subject = self.embed(text)
        volume = self.volume(self.seed(subject).view(len(text), -1, 4, 4, 4))
        points = ray_points(camera).view(len(text), -1, VOXELS, 3)
        # Thin fog at first: the gradient reaches all depths.
        fog = volume.new_zeros(volume.shape[1]).view(self.heads, -1)
        fog[:, 0] = -2.0
        volume = volume.permute(0, 2, 3, 4, 1).float() + fog.flatten()
        seen = look(volume, points.float(), self.heads).to(camera.dtype)
        seen = seen.view(len(camera), VOXELS, VOXELS, -1).permute(0, 3, 1, 2)
        # What a thing is like all over, its colour first of all, is learned sooner from here than through the volume.
        subject = subject.repeat_interleave(len(camera) // len(text), dim=0)
        scale, shift = self.tone(torch.cat([camera, subject], dim=1))[..., None, None].chunk(2, dim=1)
        features = self.refine(F.silu(self.gather(seen) * (1 + scale) + shift))
        rgba = F.pixel_shuffle(self.paint(F.silu(features)), math.isqrt(self.paint.out_channels // 4))
        return Drawing(rgba, features)

    def residuals(self, features: Tensor) -> tuple[list[Tensor], Tensor]:
        """-> what is added to the skip connections, in the encoder's order, and to the middle block."""
        folded = F.pixel_unshuffle(features, VOXELS // self.finest)
        told = [out(F.avg_pool2d(folded, 2**level)) for level, out in enumerate(self.out)]
        none = torch.zeros((), dtype=features.dtype, device=features.device)  # the downsampled copies are told already
        residuals = [told[0]]
        for level, told_here in enumerate(told):
            residuals += [told_here] * self.layers_per_block + ([none] if level < len(told) - 1 else [])
        return residuals, self.bottom(F.avg_pool2d(folded, 2 ** (len(told) - 1)))


def ray_points(camera: Tensor) -> Tensor:
    """Camera features (B, 12) of `model.camera_features` -> points (B, N^2 rays, N, 3) in the volume's [-1, 1]; outside
    of it those that are farther than REACH from the middle.

    Rays go through the middles of N x N parts of the image, rows from the top; samples lie in planes across the view.
    """
    sin_az, cos_az, sin_el, cos_el = (camera[:, i] for i in (0, 1, 4, 5))
    distance = camera[:, 8] * 0.3 + 3
    zero = torch.zeros_like(sin_az)
    back = torch.stack([cos_el * sin_az, sin_el, cos_el * cos_az], dim=-1)
    right = torch.stack([cos_az, zero, -sin_az], dim=-1)
    up = torch.cross(back, right, dim=-1)
    steps = (torch.arange(VOXELS, device=camera.device, dtype=camera.dtype) + 0.5) * (2 / VOXELS) - 1
    slope = steps * math.tan(math.radians(FOV / 2))
    direction = (
        slope[None, None, :, None] * right[:, None, None] - slope[None, :, None, None] * up[:, None, None]
    ) - back[:, None, None]  # (B, rows, columns, 3), unit length along the view
    along = distance[:, None] + steps * REACH  # (B, N)
    position = distance[:, None] * back
    points = position[:, None, None, None] + direction[:, :, :, None] * along[:, None, None, :, None]
    points = (points / REACH).flatten(1, 2)
    # Things are inside the unit sphere; what is read of its corners would teach nothing.
    return points.masked_fill(points.norm(dim=-1, keepdim=True) > 1, OUTSIDE)


class _Refine(nn.Module):
    """Two convolutions around a shortcut."""

    def __init__(self, width: int, convolution: type[nn.Conv2d] | type[nn.Conv3d]) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(8, width),
            nn.SiLU(),
            convolution(width, width, 3, padding=1),
            nn.SiLU(),
            convolution(width, width, 3, padding=1),
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
