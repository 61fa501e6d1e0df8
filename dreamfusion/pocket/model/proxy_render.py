"""A drawing of what the text asks for, seen from the camera, made before the UNet looks at the noisy image.

A UNet told text and camera only as vectors has to learn each object anew from every side. Here each model of the
training set has a code, learned along with the network (an auto-decoder: Park et al. 2019, DeepSDF), and a linear
classifier says which models a text names. The code grows into a volume of features, the camera's own rays are
composited through it (as in NeRF), and colour, opacity and normals are drawn from what they see: what is learned of an
object from one side is there for the other sides.

The features enter the UNet where a ControlNet's would (Zhang et al. 2023): added to the skip connections and to the
middle block. Letters: M models, G volumes, B images; N voxels a side, also rays a side and samples a ray.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from dreamfusion.ops.feature_volume import render_feature_volume

GROWTH = 4  # voxels of the volume a side for each of a model's code
REACH = 1.1  # scene units from the middle to a face of the volume, and half of the rays' way through it
OUTSIDE = 2.0  # a coordinate that is in no volume
FOV = 40.0  # degrees, of all training renders
FOG = -3.0  # density before the softplus that a new volume has everywhere: the gradient reaches all depths


@dataclass(frozen=True, eq=False)
class Drawing:
    """What a sketch has to say of B images."""

    rgba: Tensor  # (B, 4, r, r): albedo times opacity, and opacity, about in [0, 1]
    normal: Tensor  # (B, 3, r, r): world-space unit normals times opacity
    features: Tensor  # (B, C, n, n)

    def where(self, known: Tensor) -> Drawing:
        """Blank and silent in the images of which `known` (B,) is 0."""
        known = known[:, None, None, None]
        return Drawing(self.rgba * known, self.normal * known, self.features * known)

    def over(self, background: Tensor) -> Tensor:
        """(B,) grey levels -> images (B, 3, r, r), both in [-1, 1]: the drawing in plain albedo."""
        grey = background[:, None, None, None]
        return (2 * self.rgba[:, :3] - self.rgba[:, 3:]) + grey * (1 - self.rgba[:, 3:])


class Sketch(ModelMixin, ConfigMixin):
    """Code of a model, camera and words -> drawing -> residuals for a UNet."""

    @register_to_config
    def __init__(
        self,
        subjects: list[str],
        called: list[str],
        text: int,
        camera: int,
        channels: tuple[int, ...],
        layers_per_block: int = 1,
        finest: int = 8,
        resolution: int = 64,
        voxels: int = 32,
        code: int = 16,
        coarse: int = 64,
        middle: int = 32,
        seen: int = 16,
        width: int = 48,
        hidden: int = 256,
    ) -> None:
        """`subjects`: the M models that have a code; `called`: the name each goes by, a name's variants in order. The
        volume of `voxels` a side grows from the `code` channels through `coarse` and `middle` ones to `seen`, the
        density among them. `channels` are those of the UNet's levels, the `finest` pixels a side first.
        """
        super().__init__()
        self.voxels = voxels
        side = voxels // GROWTH
        self.layers_per_block, self.finest = layers_per_block, finest
        self.called, self.names = called, list(dict.fromkeys(called))
        self.classify = nn.Linear(text, len(self.names)).requires_grad_(False)  # fitted by `naming.fit_names`
        self._kept: tuple[Tensor, Tensor] | None = None
        self.codes = nn.Parameter(0.1 * torch.randn(len(subjects), code, side, side, side))
        self.volume = nn.Sequential(
            nn.Conv3d(code, coarse, 3, padding=1),
            _Refine(coarse, nn.Conv3d),
            nn.ConvTranspose3d(coarse, middle, 2, stride=2),
            _Refine(middle, nn.Conv3d),
            nn.SiLU(),
            nn.ConvTranspose3d(middle, seen, 2, stride=2),
            nn.SiLU(),
            nn.Conv3d(seen, seen, 3, padding=1),
        )
        with torch.no_grad():
            self.volume[-1].bias[0] = FOG  # type: ignore[operator]
        self.embed = nn.Sequential(nn.Linear(text, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())
        self.tone = nn.Linear(camera + hidden, 2 * width)
        self.gather = nn.Conv2d(seen + 1, width, 3, padding=1)
        self.refine = _Refine(width, nn.Conv2d)
        self.paint = nn.Conv2d(width, 7 * (resolution // voxels) ** 2, 1)
        fold = (voxels // finest) ** 2
        self.out = nn.ModuleList(_silent(width * fold, channel) for channel in channels)
        self.bottom = _silent(width * fold, channels[-1])
        for layer in (self.embed[0], self.embed[2]):  # so that texts are told apart from the first step on
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def variants(self, name: str) -> list[int]:
        """The models that go by a name, by index."""
        return [index for index, called in enumerate(self.called) if called == name]

    def named(self, text: Tensor, variant: int) -> Tensor:
        """Sentence vectors (B, D) -> the model (B,) that each names; of several, the `variant`-th or the last."""
        chosen = [self.variants(self.names[name]) for name in self.classify(text).argmax(dim=1).tolist()]
        return torch.tensor([models[min(variant, len(models) - 1)] for models in chosen], device=text.device)

    def grow(self, subject: Tensor) -> Tensor:
        """Indices of models (G,) -> their volumes (G, N, N, N, C), indexed z, y, x.

        A frozen sketch keeps the last ones: the views of a prompt ask for the same at every step.
        """
        frozen = not self.codes.requires_grad
        if frozen and self._kept is not None and torch.equal(self._kept[0], subject):
            return self._kept[1]
        volume: Tensor = self.volume(self.codes[subject]).permute(0, 2, 3, 4, 1).float().contiguous()
        self._kept = (subject, volume) if frozen else None
        return volume

    def forward(self, volume: Tensor, text: Tensor, camera: Tensor) -> Drawing:
        """(G, N, N, N, C), (B, D), (B, 12) -> B drawings; B / G cameras of each volume, one after the other."""
        points = ray_points(camera, self.voxels).view(len(volume), -1, self.voxels, 3)
        seen = render_feature_volume(volume, points.float(), heads=1).to(camera.dtype)
        seen = seen.view(len(camera), self.voxels, self.voxels, -1).permute(0, 3, 1, 2)
        # The words' part, their colour first of all; which model they name is the volume's.
        scale, shift = self.tone(torch.cat([camera, self.embed(text)], dim=1))[..., None, None].chunk(2, dim=1)
        features = self.refine(F.silu(self.gather(seen) * (1 + scale) + shift))
        painted = F.pixel_shuffle(self.paint(F.silu(features)), math.isqrt(self.paint.out_channels // 7))
        return Drawing(painted[:, :4], painted[:, 4:], features)

    def residuals(self, features: Tensor) -> tuple[list[Tensor], Tensor]:
        """-> what is added to the skip connections, in the encoder's order, and to the middle block."""
        folded = F.pixel_unshuffle(features, self.voxels // self.finest)
        told = [out(F.avg_pool2d(folded, 2**level)) for level, out in enumerate(self.out)]
        none = torch.zeros((), dtype=features.dtype, device=features.device)  # the downsampled copies are told already
        residuals = [told[0]]
        for level, told_here in enumerate(told):
            residuals += [told_here] * self.layers_per_block + ([none] if level < len(told) - 1 else [])
        return residuals, self.bottom(F.avg_pool2d(folded, 2 ** (len(told) - 1)))


def ray_points(camera: Tensor, voxels: int) -> Tensor:
    """Camera features (B, 12) of `model.camera_features` -> points (B, N^2 rays, N, 3), N = `voxels`.

    In the volume's [-1, 1]; outside of it those that are farther than REACH from the middle. Rays go through the
    middles of N x N parts of the image, rows from the top; samples lie in planes across the view.
    """
    sin_az, cos_az, sin_el, cos_el = (camera[:, i] for i in (0, 1, 4, 5))
    distance = camera[:, 8] * 0.3 + 3
    zero = torch.zeros_like(sin_az)
    back = torch.stack([cos_el * sin_az, sin_el, cos_el * cos_az], dim=-1)
    right = torch.stack([cos_az, zero, -sin_az], dim=-1)
    up = torch.cross(back, right, dim=-1)
    steps = (torch.arange(voxels, device=camera.device, dtype=camera.dtype) + 0.5) * (2 / voxels) - 1
    slope = steps * math.tan(math.radians(FOV / 2))
    direction = (
        slope[None, None, :, None] * right[:, None, None] - slope[None, :, None, None] * up[:, None, None]
    ) - back[:, None, None]  # (B, rows, columns, 3), unit length along the view
    along = distance[:, None] + steps * REACH  # (B, N)
    position = distance[:, None] * back
    points = position[:, None, None, None] + direction[:, :, :, None] * along[:, None, None, :, None]
    points = (points / REACH).flatten(1, 2)
    # Things are inside the unit sphere; what is read of its corners would teach nothing.
    points[..., 0].masked_fill_(points.square().sum(-1) > 1, OUTSIDE)  # one coordinate is enough
    return points


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
