"""The pocket prior's network: diffusers' UNet on pixel-unshuffled images of r x r pixels (r: SIZES), conditioned on
text and camera.

Letters: x0 clean image in [-1, 1], x_t = alpha x0 + sigma noise; B images, G texts. The network predicts x0 ("sample"):
predicting v would require passing the noise of every pixel through the unshuffled layers.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dreamfusion.pocket.model.text import WIDTH, sentence_vector

if TYPE_CHECKING:
    from dreamfusion.pocket.model.proxy_render import ProxyRender

CAMERA_FEATURES = 12
CAMERA_KNOWN = 9  # index of the feature that is 1 where the camera is given
WHITE = (1.0, 0.0)  # default appearance: white background, plain albedo
RESOLUTION = 64  # pixels, side of the square image
SIZES = (RESOLUTION, 2 * RESOLUTION)  # sides the convolutional network takes; twice the side has twice the rays a side
VOLUME_FOLDER = "sketch"  # of the feature volume in a folder of weights


def camera_features(azimuth: Tensor, elevation: Tensor, distance: Tensor) -> Tensor:
    """(B,) degrees, degrees, scene units -> (B, 12), the last two zero for the appearance; all zeros is "no camera"."""
    az, el = torch.deg2rad(azimuth), torch.deg2rad(elevation)
    waves = [az.sin(), az.cos(), (2 * az).sin(), (2 * az).cos(), el.sin(), el.cos(), (2 * el).sin(), (2 * el).cos()]
    one, zero = torch.ones_like(az), torch.zeros_like(az)
    return torch.stack([*waves, (distance - 3) / 0.3, one, zero, zero], dim=-1)


def with_appearance(camera: Tensor, appearance: Tensor, known: Tensor | None = None) -> Tensor:
    """Camera features (B, 12) with `appearance` (B, 2) in the last two places; camera features zero where not `known`.

    The appearance is background grey level and kind of light (-1 textureless, 0 albedo, 1 Lambertian). It is given even
    without a camera, so that guidance does not amplify the background.
    """
    placed = camera[:, :-2] if known is None else camera[:, :-2] * known[:, None]
    return torch.cat([placed, appearance.to(camera)], dim=-1)


class PocketModel(nn.Module):
    """Predict the clean image from noisy image, timestep, text and camera."""

    def __init__(self, unet: Any, scheduler: dict[str, Any], feature_volume: Any | None = None) -> None:
        """`feature_volume`: a `proxy_render.FeatureVolume`, or None for the earliest weights."""
        super().__init__()
        from diffusers import DDIMScheduler

        self.unet = unet.to(memory_format=torch.channels_last)
        self.feature_volume: Any = feature_volume
        self.scheduler = scheduler
        self.resolution = RESOLUTION
        self.unshuffle = math.isqrt(unet.config.out_channels // 3)  # pixels a side that become channels
        self.alphas_cumprod: Tensor
        alphas_cumprod = DDIMScheduler.from_config(scheduler).alphas_cumprod
        self.register_buffer("alphas_cumprod", alphas_cumprod, persistent=False)
        # The class embedding of the earliest weights is the camera alone, of later ones camera and sentence vector.
        self.takes_sentence = unet.config.projection_class_embeddings_input_dim == CAMERA_FEATURES + WIDTH

    @classmethod
    def create(cls, unet: dict[str, Any], subjects: dict[str, str], unshuffle: int = 4, **volume_widths: int) -> Self:
        """A network with random weights.

        Args:
            unet: arguments of diffusers' UNet2DConditionModel.
            subjects: {model: name} of the models that get a code in the feature volume.
            unshuffle: side in pixels of the patches that become channels.
            volume_widths: further arguments of `FeatureVolume`.
        """
        from diffusers import UNet2DConditionModel

        from dreamfusion.pocket.model.proxy_render import FeatureVolume

        channels = 3 * unshuffle**2
        network = UNet2DConditionModel(
            sample_size=RESOLUTION // unshuffle,
            in_channels=2 * channels,  # the noisy image and the proxy render
            out_channels=channels,
            encoder_hid_dim=WIDTH,
            encoder_hid_dim_type="text_proj",
            class_embed_type="projection",
            projection_class_embeddings_input_dim=CAMERA_FEATURES + WIDTH,
            resnet_time_scale_shift="scale_shift",
            **unet,
        )
        nn.init.zeros_(network.conv_out.weight)  # the initial estimate is the proxy render
        nn.init.zeros_(network.conv_out.bias)
        # Keyword arguments: diffusers writes no others into config.json.
        volume = FeatureVolume(
            subjects=list(subjects),  # two lists: diffusers sorts the keys of a dict
            names=list(subjects.values()),
            text=WIDTH,
            camera=CAMERA_FEATURES,
            channels=tuple(network.config.block_out_channels),
            layers_per_block=network.config.layers_per_block,
            finest=network.config.sample_size,
            resolution=RESOLUTION,
            **volume_widths,
        )
        return cls(network, {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample"}, volume)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read UNet, scheduler and, if present, feature volume from a folder in diffusers' layout, as float32.

        Raises:
            FileNotFoundError: a part of the folder is missing; names it.
        """
        from diffusers import UNet2DConditionModel

        from dreamfusion.pocket.model.proxy_render import FeatureVolume

        folder = Path(folder)
        for part in ("unet/config.json", "scheduler/scheduler_config.json"):
            if not (folder / part).is_file():
                raise FileNotFoundError(f"no pocket prior in {folder}: {part} is missing; train one with mode=pretrain")
        options = {"local_files_only": True, "low_cpu_mem_usage": False, "use_safetensors": True}
        unet = UNet2DConditionModel.from_pretrained(str(folder / "unet"), **options).float()
        scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
        if not (folder / VOLUME_FOLDER).is_dir():
            return cls(unet, scheduler)
        return cls(unet, scheduler, FeatureVolume.from_pretrained(str(folder / VOLUME_FOLDER), **options).float())

    def unet_to(self, dtype: torch.dtype) -> None:
        """Convert the UNet alone to `dtype`; `forward` converts its inputs and output."""
        nn.Module.to(self.unet, dtype)  # diffusers' own `to` logs the modules it keeps in float32: none here

    def save(self, folder: Path) -> None:
        """Write UNet and feature volume (fp16 safetensors) and scheduler in diffusers' layout."""
        from diffusers import DDIMScheduler

        for name, part in (("unet", self.unet), (VOLUME_FOLDER, self.feature_volume)):
            if part is not None:
                half = type(part).from_config(dict(part.config))
                half.load_state_dict(part.state_dict())
                half.half().save_pretrained(str(folder / name))
        DDIMScheduler.from_config(self.scheduler).save_pretrained(str(folder / "scheduler"))

    def render_proxy(
        self,
        text_states: Tensor,
        text_mask: Tensor,
        camera: Tensor,
        subject: Tensor | None = None,
        variant: int = 0,
        size: int = RESOLUTION,
    ) -> "ProxyRender":
        """(B,16,384), (B,16), (B,12) -> B proxy renders in plain albedo, `size` pixels a side: no appearance.

        `subject` (G,) gives model indices, each for B / G consecutive images; None classifies the texts and takes
        variant number `variant` of each name.
        """
        sentence = sentence_features(text_states, text_mask).to(camera.dtype)
        if subject is None:
            subject = self.feature_volume.select_subjects(sentence, variant)
            if (subject == subject[0]).all():  # views of one prompt share one volume
                subject = subject[:1]
        plain, zoom = with_appearance(camera, camera.new_zeros(len(camera), 2)), size // RESOLUTION
        proxy: ProxyRender = self.feature_volume(self.feature_volume.decode(subject, zoom), sentence, plain, zoom)
        return proxy

    def render_scene(
        self,
        sentence: Tensor,
        subject: Tensor,
        placement: Tensor,
        sizes: Sequence[tuple[float, float]],
        camera: Tensor,
        size: int = RESOLUTION,
    ) -> "ProxyRender":
        """B proxy renders of G models in one scene, in plain albedo: sentence vectors (G, 384), model indices (G,),
        centres and scales (G, 4) of `arrangement.arrange`, `sizes` as in `render_together`, cameras (B, 12).
        """
        from dreamfusion.pocket.model.scene_render import render_together

        plain, zoom = with_appearance(camera, camera.new_zeros(len(camera), 2)), size // RESOLUTION
        volume, sentence = self.feature_volume.decode(subject, zoom), sentence.to(camera.dtype)
        return render_together(self.feature_volume, volume, sentence, plain, placement, sizes, zoom)

    def forward(
        self,
        noisy: Tensor,
        timestep: Tensor,
        text_states: Tensor,
        text_mask: Tensor,
        camera: Tensor,
        proxy: "ProxyRender | None" = None,
        variant: int = 0,
    ) -> Tensor:
        """(B,3,r,r), (B,), (B,16,384), (B,16) bool, (B,12) -> x0 (B,3,r,r), not clipped.

        `proxy` is the result of `render_proxy` for the same text and camera if already computed, else `variant` chooses
        the model.
        """
        label, residuals, bottom = camera, None, None
        if self.takes_sentence:
            label = torch.cat([camera, sentence_features(text_states, text_mask).to(camera.dtype)], dim=-1)
        base = None
        if self.feature_volume is not None:
            known = camera[:, CAMERA_KNOWN]
            if proxy is None:
                size = noisy.shape[-1]
                proxy = self._render_proxy_where(known > 0, text_states, text_mask, camera, variant, size)
            proxy = proxy.masked(known)
            base = proxy.over(camera[:, -2])
            residuals, bottom = self.feature_volume.residuals(proxy.features)
        sample = noisy if base is None else torch.cat([noisy, base.to(noisy.dtype)], dim=1)
        sample = F.pixel_unshuffle(sample, self.unshuffle)
        dtype = self.unet.conv_in.weight.dtype
        if dtype != torch.float32:  # with torch.autocast the weights are float32
            sample, text_states, label = sample.to(dtype), text_states.to(dtype), label.to(dtype)
            residuals = None if residuals is None else [residual.to(dtype) for residual in residuals]
            bottom = None if bottom is None else bottom.to(dtype)
        clean = self.unet(
            sample.contiguous(memory_format=torch.channels_last),
            timestep,
            text_states,
            class_labels=label,
            encoder_attention_mask=text_mask,
            down_block_additional_residuals=residuals,
            mid_block_additional_residual=bottom,
        ).sample
        clean = F.pixel_shuffle(clean.to(noisy.dtype) if dtype != torch.float32 else clean, self.unshuffle)
        if base is None:
            return clean
        # The UNet predicts the difference from the proxy render: its few channels per patch need not carry all detail.
        return clean + base.to(clean.dtype)

    def _render_proxy_where(
        self, known: Tensor, text_states: Tensor, text_mask: Tensor, camera: Tensor, variant: int, size: int
    ) -> "ProxyRender":
        """`render_proxy` of the images whose camera is known, zeros for the others."""
        if known.all() or not known.any():
            return self.render_proxy(text_states, text_mask, camera, variant=variant, size=size)
        proxy = self.render_proxy(text_states[known], text_mask[known], camera[known], variant=variant, size=size)
        parts = (proxy.rgba, proxy.normal, proxy.features)
        return type(proxy)(*(_place(part, known) for part in parts))


def _place(rows: Tensor, where: Tensor) -> Tensor:
    """Scatter rows (K, ...) to the K places where `where` (B,) is true: (B, ...), zeros elsewhere."""
    return rows.new_zeros(len(where), *rows.shape[1:]).masked_scatter(where.view(-1, *[1] * (rows.ndim - 1)), rows)


def sentence_features(text_states: Tensor, text_mask: Tensor) -> Tensor:
    """(B,16,384), (B,16) -> sentence vectors (B,384), scaled to entries of about 1 like the camera's sines."""
    return sentence_vector(text_states, text_mask) * math.sqrt(WIDTH)
