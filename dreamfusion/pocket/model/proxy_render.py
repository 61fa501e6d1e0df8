"""Render a proxy image of the object named by the text, from a learned feature volume, before the UNet denoises.

A UNet conditioned on text and camera as vectors has to learn each object from every side separately. Here each
training model has a learned code (an auto-decoder: Park et al. 2019, DeepSDF), and a linear classifier maps the text to
a model. The code is decoded to a feature volume, features are composited along camera rays (as in NeRF), and albedo,
opacity and normals are predicted from the composited features: all views of an object share one volume.

The features enter the UNet where a ControlNet's would (Zhang et al. 2023): added to the skip connections and to the
middle block. Letters: M models, G volumes, B images; N voxels a side and samples a ray, R rays a side.
"""

import math
from dataclasses import dataclass
from typing import Any, Self

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from dreamfusion.ops.feature_volume import render_feature_volume
from dreamfusion.pocket.model.rays import Window, ray_points

UPSAMPLING = 4  # voxels a side per code cell
PAIRED = (
    (0.5, 0.0, 0.0),
    (0.5, 1.0, 0.5),
    (0.0, 0.0, 0.5),
)  # 3-tap kernel -> that on means of two neighbours
INITIAL_DENSITY = -3.0  # before the softplus, uniform in a new volume: the gradient reaches all depths
STORED_KEYS = {"called": "names", "seen": "fine"}  # keys in config.json of earlier weights -> arguments of today


@dataclass(frozen=True, eq=False)
class ProxyRender:
    """Proxy renders of B images, and the features that condition the UNet."""

    rgba: Tensor  # (B, 4, r, r): albedo times opacity, and opacity, roughly in [0, 1]
    normal: Tensor  # (B, 3, r, r): world-space unit normals times opacity
    features: Tensor  # (B, C, n, n)

    def masked(self, known: Tensor) -> Self:
        """Multiply each image by its entry of `known` (B,): 0 removes image and features."""
        known = known[:, None, None, None]
        return type(self)(self.rgba * known, self.normal * known, self.features * known)

    def halved(self) -> Self:
        """With half the pixels and features a side."""
        return type(self)(*(F.avg_pool2d(part, 2) for part in (self.rgba, self.normal, self.features)))

    def blended(self, other: Self, share: float) -> Self:
        """This one and a share of the other."""
        pairs = zip(*((part.rgba, part.normal, part.features) for part in (self, other)), strict=True)
        return type(self)(*(torch.lerp(one, two, share) for one, two in pairs))

    def over(self, background: Tensor) -> Tensor:
        """Composite the albedo over grey levels (B,): images (B, 3, r, r), all in [-1, 1]."""
        grey = background[:, None, None, None]
        return (2 * self.rgba[:, :3] - self.rgba[:, 3:]) + grey * (1 - self.rgba[:, 3:])


class FeatureVolume(ModelMixin, ConfigMixin):
    """Model code, camera and sentence vector -> proxy render -> residuals for the UNet."""

    @register_to_config
    def __init__(
        self,
        subjects: list[str],
        names: list[str],
        text: int,
        camera: int,
        channels: tuple[int, ...],
        layers_per_block: int = 1,
        finest: int = 8,
        resolution: int = 64,
        voxels: int = 32,
        rays: int | None = None,
        code: int = 16,
        coarse: int = 64,
        middle: int = 32,
        fine: int = 16,
        width: int = 48,
        hidden: int = 256,
    ) -> None:
        """Create a volume decoder with random weights for M models `subjects`, each with its name in `names`.

        The volume of `voxels` a side is decoded from `code` channels through `coarse` and `middle` to `fine` ones, the
        first of which is the density. An image of `resolution` pixels has `rays` rays a side (None: as many as voxels)
        through the volume averaged to that number of voxels. `channels` are those of the UNet's levels, the first with
        `finest` pixels a side.
        """
        super().__init__()
        rays = rays or voxels
        self.voxels, self.rays = voxels, rays
        side = voxels // UPSAMPLING
        self.layers_per_block, self.finest = layers_per_block, finest
        self.names, self.vocabulary = names, list(dict.fromkeys(names))
        self.classify = nn.Linear(text, len(self.vocabulary)).requires_grad_(False)  # fitted by `naming.fit_names`
        self._cached: tuple[int, Tensor, Tensor] | None = None
        self.halve = False  # while training: decode volumes that are averaged anyway with half the voxels a side
        self.codes = nn.Parameter(0.1 * torch.randn(len(subjects), code, side, side, side))
        self.volume = nn.Sequential(
            nn.Conv3d(code, coarse, 3, padding=1),
            _Refine(coarse, nn.Conv3d),
            nn.ConvTranspose3d(coarse, middle, 2, stride=2),
            _Refine(middle, nn.Conv3d),
            nn.SiLU(),
            _repeating(nn.ConvTranspose3d(middle, fine, 2, stride=2)),
            nn.SiLU(),
            nn.Conv3d(fine, fine, 3, padding=1),
        )
        with torch.no_grad():
            self.volume[-1].bias[0] = INITIAL_DENSITY  # type: ignore[operator]
        self.embed = nn.Sequential(nn.Linear(text, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())
        self.tone = nn.Linear(camera + hidden, 2 * width)
        self.gather = nn.Conv2d(fine + 1, width, 3, padding=1)
        self.refine = _Refine(width, nn.Conv2d)
        self.paint = nn.Conv2d(width, 7 * (resolution // rays) ** 2, 1)
        fold = (rays // finest) ** 2
        self.out = nn.ModuleList(_zero_convolution(width * fold, channel) for channel in channels)
        self.bottom = _zero_convolution(width * fold, channels[-1])
        for layer in (self.embed[0], self.embed[2]):  # torch's default shrinks the differences between texts
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    @classmethod
    def from_config(cls, config: dict[str, Any], **kwargs: Any) -> Any:
        """diffusers' constructor from config.json; accepts STORED_KEYS too."""
        return super().from_config({STORED_KEYS.get(key, key): value for key, value in config.items()}, **kwargs)

    def variants(self, name: str) -> list[int]:
        """Indices of the models with this name."""
        return [index for index, other in enumerate(self.names) if other == name]

    def select_subjects(self, text: Tensor, variant: int) -> Tensor:
        """Sentence vectors (B, D) -> index (B,) of the named model; variant number `variant`, or the last there is."""
        likeliest = self.classify(text.to(self.classify.weight.dtype)).argmax(dim=1).tolist()
        chosen = [self.variants(self.vocabulary[name]) for name in likeliest]
        return torch.tensor([models[min(variant, len(models) - 1)] for models in chosen], device=text.device)

    @property
    def decoded(self) -> Tensor | None:
        """The last result of `decode`, where the weights are frozen."""
        return None if self._cached is None else self._cached[2]

    def decode(self, subject: Tensor, zoom: int = 1) -> Tensor:
        """Model indices (G,) -> volumes (G, N, N, N, C), indexed z, y, x, for `forward` at the same `zoom`.

        Frozen weights cache the last result: all views of a prompt use the same volume at every step.
        """
        frozen = not self.codes.requires_grad
        if frozen and self._cached is not None:
            size, last, kept = self._cached
            same_device = last.device == subject.device  # the prior may have moved to another one since
            # The first comparison does not wait for the device.
            if size == zoom and (last is subject or (same_device and torch.equal(last, subject))):
                return kept
        factor, codes = max(self.voxels // (zoom * self.rays), 1), self.codes[subject]
        if self.training and codes.device.type == "cpu":  # oneDNN's convolutions take half the time
            codes = codes.contiguous(memory_format=torch.channels_last_3d)
        if self.halve and self.training and factor % 2 == 0:
            volume = _averaged(self._halved(codes), factor // 2, factor)
        else:
            volume = _averaged(self.volume(codes), factor, factor)
        volume = volume.float().permute(0, 2, 3, 4, 1).contiguous()
        self._cached = (zoom, subject, volume) if frozen else None
        return volume

    def _halved(self, codes: Tensor) -> Tensor:
        """Codes -> what `self.volume` gives, averaged over 2 x 2 x 2 voxels (G, C, N/2, N/2, N/2), in a fraction of the
        time: exact as long as the last upsampling repeats its voxels, as that of new weights does.
        """
        *first, widen, activation, last = self.volume
        features = codes
        for layer in first:
            features = layer(features)
        kernel = widen.weight.mean(dim=(2, 3, 4)).t()[..., None, None, None]  # type: ignore[operator]
        features = activation(F.conv3d(features, kernel, widen.bias))  # type: ignore[arg-type]
        paired = torch.tensor(PAIRED, device=codes.device, dtype=codes.dtype)
        kernel = torch.einsum("za,yb,xc,oiabc->oizyx", paired, paired, paired, last.weight)
        return F.conv3d(features, kernel, last.bias, padding=1)  # type: ignore[arg-type]

    def forward(self, volume: Tensor, text: Tensor, camera: Tensor, zoom: int = 1) -> ProxyRender:
        """(G, N, N, N, C), (B, D), (B, 12) -> B proxy renders; the B / G cameras of each volume are consecutive.

        The images get `zoom` times as many pixels and rays a side. The image layers reach as far in the scene as at
        zoom 1, and the pixels of a ray differ by less, in proportion to the angle between them.
        """
        return self.painted(self.seen(volume, camera, zoom), text, camera, zoom)

    def seen(
        self, volume: Tensor, camera: Tensor, zoom: int, places: Tensor | None = None, window: Window | None = None
    ) -> Tensor:
        """What the rays of B images see: opacity, mean depth as a share of the sampled ray, and features,
        (B, 2 + F, R, R). `places` and `window` as in `ray_points`.
        """
        rays, samples = zoom * self.rays, volume.shape[1]
        points = ray_points(camera, samples, rays, places, window).view(len(volume), -1, samples, 3)
        found = render_feature_volume(volume, points.float(), heads=1).to(camera.dtype)
        side = rays if window is None else window.side
        return found.reshape(len(camera), side, side, -1).permute(0, 3, 1, 2)

    def painted(self, seen: Tensor, text: Tensor, camera: Tensor, zoom: int) -> ProxyRender:
        """The proxy renders of what the rays have seen."""
        # The volume fixes the model; the text modulates its features, above all their colour.
        scale, shift = self.tone(torch.cat([camera, self.embed(text)], dim=1))[..., None, None].chunk(2, dim=1)
        features = self.refine(F.silu(_dilated(self.gather, seen, zoom) * (1 + scale) + shift), zoom)
        side = math.isqrt(self.paint.out_channels // 7)
        image = F.pixel_shuffle(self.paint(F.silu(features)), side)
        if zoom > 1:
            mean = F.interpolate(F.avg_pool2d(image, side), scale_factor=side)
            image = mean + (image - mean) / zoom
        return ProxyRender(image[:, :4], image[:, 4:], features)

    def residuals(self, features: Tensor) -> tuple[list[Tensor], Tensor]:
        """Residuals for the skip connections, in the encoder's order, and for the middle block."""
        folded = F.pixel_unshuffle(features, self.rays // self.finest)
        levels = [out(F.avg_pool2d(folded, 2**level)) for level, out in enumerate(self.out)]
        zero = torch.zeros((), dtype=features.dtype, device=features.device)  # for the outputs of downsampling layers
        residuals = [levels[0]]
        for level, residual in enumerate(levels):
            residuals += [residual] * self.layers_per_block + ([zero] if level < len(levels) - 1 else [])
        return residuals, self.bottom(F.avg_pool2d(folded, 2 ** (len(levels) - 1)))


def _averaged(volume: Tensor, factor: int, depths: int) -> Tensor:
    """(G, C, N, N, N) -> volumes with `factor` times fewer voxels a side, for `depths` times fewer samples on a ray.

    Features are averaged; the optical depth, softplus of the first channel, keeps its sum along a ray.
    """
    if depths == 1:
        return volume
    depth = depths * F.avg_pool3d(F.softplus(volume[:, :1].float()), factor)
    density = depth + torch.log(-torch.expm1(-depth.clamp(min=1e-6)))  # softplus's inverse
    mean = F.avg_pool3d(volume, factor) if factor > 1 else volume
    return torch.cat([density, mean[:, 1:]], dim=1)


class _Refine(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, width: int, convolution: type[nn.Conv2d] | type[nn.Conv3d]) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(8, width),
            nn.SiLU(),
            convolution(width, width, 3, padding=1),
            nn.SiLU(),
            convolution(width, width, 3, padding=1),
        )

    def forward(self, features: Tensor, dilation: int = 1) -> Tensor:
        refined = features
        for layer in self.layers:
            refined = _dilated(layer, refined, dilation) if isinstance(layer, nn.Conv2d) else layer(refined)
        return features + refined


def _repeating(layer: nn.ConvTranspose3d) -> nn.ConvTranspose3d:
    """`layer` with new weights for which all voxels made of one are equal, until it learns (Aitken et al. 2017)."""
    with torch.no_grad():
        layer.weight.copy_(layer.weight[:, :, :1, :1, :1].clone().expand_as(layer.weight))
    return layer


def _dilated(layer: nn.Conv2d, features: Tensor, dilation: int) -> Tensor:
    """A 3x3 convolution whose taps are `dilation` cells apart."""
    if layer.weight.requires_grad and dilation > 1:
        # oneDNN's gradient of such weights in bfloat16, of images stored channels last, is not a number (torch 2.13).
        features = features.contiguous()
    return F.conv2d(features, layer.weight, layer.bias, padding=dilation, dilation=dilation)


def _zero_convolution(width: int, channels: int) -> nn.Conv2d:
    """A 1x1 convolution initialised to zero, so that a new volume leaves the UNet unchanged."""
    convolution = nn.Conv2d(width, channels, 1)
    nn.init.zeros_(convolution.weight)
    nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    return convolution
