"""The pocket prior's network: diffusers' UNet on pixel-unshuffled 64x64 images, told the text and the camera.

Letters: x0 clean image in [-1, 1], x_t = alpha x0 + sigma noise; B images, G texts. It predicts x0 ("sample"):
predicting v through the unshuffling would have to carry the pixels' noise through the network.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dreamfusion.pocket.model.text import WIDTH, sentence_vector

if TYPE_CHECKING:
    from dreamfusion.pocket.model.proxy_render import Drawing

CAMERA_FEATURES = 12
CAMERA_KNOWN = 9  # the feature that is 1 where the camera is told
WHITE = (1.0, 0.0)  # the look of pictures by default: white behind, albedo alone (`Cameras.look`)
RESOLUTION = 64  # pixels, side of the square image


def camera_features(azimuth: Tensor, elevation: Tensor, distance: Tensor) -> Tensor:
    """(B,) degrees, degrees, scene units -> (B, 12), the last two left for the look; all zeros is "camera unknown"."""
    az, el = torch.deg2rad(azimuth), torch.deg2rad(elevation)
    waves = [az.sin(), az.cos(), (2 * az).sin(), (2 * az).cos(), el.sin(), el.cos(), (2 * el).sin(), (2 * el).cos()]
    one, zero = torch.ones_like(az), torch.zeros_like(az)
    return torch.stack([*waves, (distance - 3) / 0.3, one, zero, zero], dim=-1)


def with_look(camera: Tensor, look: Tensor, known: Tensor | None = None) -> Tensor:
    """Camera features (B, 12) with the look (B, 2) in their last two places; the camera's own zero where not `known`.

    The look (`Cameras.look`) is told even where the camera is not: that the background is grey must not be a part of
    what guidance amplifies.
    """
    placed = camera[:, :-2] if known is None else camera[:, :-2] * known[:, None]
    return torch.cat([placed, look.to(camera)], dim=-1)


class PocketModel(nn.Module):
    """Noisy image, timestep, text and camera -> clean image."""

    def __init__(self, unet: Any, scheduler: dict[str, Any], sketch: Any | None = None) -> None:
        """`sketch`: `sketch.Sketch`, or None for networks without."""
        super().__init__()
        from diffusers import DDIMScheduler

        self.unet = unet.to(memory_format=torch.channels_last)
        self.sketch = sketch
        self.scheduler = scheduler
        self.resolution = RESOLUTION
        self.unshuffle = math.isqrt(unet.config.out_channels // 3)  # pixels a side that become channels
        self.alphas_cumprod: Tensor
        alphas_cumprod = DDIMScheduler.from_config(scheduler).alphas_cumprod
        self.register_buffer("alphas_cumprod", alphas_cumprod, persistent=False)
        # The first prior took the camera alone as its class embedding; later ones take the sentence vector beside it.
        self.takes_sentence = unet.config.projection_class_embeddings_input_dim == CAMERA_FEATURES + WIDTH

    @classmethod
    def create(cls, unet: dict[str, Any], subjects: dict[str, str], unshuffle: int = 4, **sketch: int) -> PocketModel:
        """A new network with random weights: diffusers' UNet2DConditionModel, `unet` its arguments, on patches of
        `unshuffle` pixels a side; beside it a sketch of the models `subjects`, each with the name it goes by;
        `sketch` are its widths.
        """
        from diffusers import UNet2DConditionModel

        from dreamfusion.pocket.model.proxy_render import Sketch

        channels = 3 * unshuffle**2
        network = UNet2DConditionModel(
            sample_size=RESOLUTION // unshuffle,
            in_channels=2 * channels,  # the noisy image and the drawing
            out_channels=channels,
            encoder_hid_dim=WIDTH,
            encoder_hid_dim_type="text_proj",
            class_embed_type="projection",
            projection_class_embeddings_input_dim=CAMERA_FEATURES + WIDTH,
            resnet_time_scale_shift="scale_shift",
            **unet,
        )
        nn.init.zeros_(network.conv_out.weight)  # the estimate is the drawing at first
        nn.init.zeros_(network.conv_out.bias)
        # By keyword: diffusers writes only what was given so into config.json.
        drawer = Sketch(
            subjects=list(subjects),  # two lists: diffusers sorts the keys of what it writes
            called=list(subjects.values()),
            text=WIDTH,
            camera=CAMERA_FEATURES,
            channels=tuple(network.config.block_out_channels),
            layers_per_block=network.config.layers_per_block,
            finest=network.config.sample_size,
            resolution=RESOLUTION,
            **sketch,
        )
        return cls(network, {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample"}, drawer)

    @classmethod
    def load(cls, folder: Path) -> PocketModel:
        """Read `unet/`, `scheduler/` and, where it is there, `sketch/` of a folder in diffusers' layout, as float32.

        Raises:
            FileNotFoundError: a part of the folder is missing; names it.
        """
        from diffusers import UNet2DConditionModel

        from dreamfusion.pocket.model.proxy_render import Sketch

        folder = Path(folder)
        for part in ("unet/config.json", "scheduler/scheduler_config.json"):
            if not (folder / part).is_file():
                raise FileNotFoundError(f"no pocket prior in {folder}: {part} is missing; train one with mode=pretrain")
        unet = UNet2DConditionModel.from_pretrained(
            str(folder / "unet"), local_files_only=True, low_cpu_mem_usage=False
        )
        sketch = None
        if (folder / "sketch").is_dir():
            sketch = Sketch.from_pretrained(
                str(folder / "sketch"), local_files_only=True, low_cpu_mem_usage=False
            ).float()
        return cls(unet.float(), json.loads((folder / "scheduler" / "scheduler_config.json").read_text()), sketch)

    def unet_to(self, dtype: torch.dtype) -> None:
        """The UNet alone in another precision: its inputs and its output are converted."""
        nn.Module.to(self.unet, dtype)  # diffusers' own says what it would keep in float32, which is nothing

    def save(self, folder: Path) -> None:
        """Write `unet/` and `sketch/` (fp16 safetensors) and `scheduler/` in diffusers' layout."""
        from diffusers import DDIMScheduler

        for name, part in (("unet", self.unet), ("sketch", self.sketch)):
            if part is not None:
                half = type(part).from_config(dict(part.config))
                half.load_state_dict(part.state_dict())
                half.half().save_pretrained(str(folder / name))
        DDIMScheduler.from_config(self.scheduler).save_pretrained(str(folder / "scheduler"))

    def draw(
        self, text_states: Tensor, text_mask: Tensor, camera: Tensor, subject: Tensor | None = None, variant: int = 0
    ) -> Drawing:
        """What the sketch has to say: (B,16,384), (B,16), (B,12) -> B drawings. The look is not told to it: it draws
        plain albedo.

        `subject` (G,) says which models are to be drawn, B / G images of each, one after the other; without, each image
        shows the model that its text names, the `variant`-th of that name.
        """
        sketch = self.drawer
        sentence = sentence_features(text_states, text_mask).to(camera.dtype)
        if subject is None:
            subject = sketch.named(sentence, variant)
            if (subject == subject[0]).all():  # the views of one prompt: one volume for all of them
                subject = subject[:1]
        drawing: Drawing = sketch(sketch.grow(subject), sentence, with_look(camera, camera.new_zeros(len(camera), 2)))
        return drawing

    @property
    def drawer(self) -> Any:
        """The sketch of a network that has one."""
        if self.sketch is None:
            raise RuntimeError("this network has no sketch")
        return self.sketch

    def forward(
        self,
        noisy: Tensor,
        timestep: Tensor,
        text_states: Tensor,
        text_mask: Tensor,
        camera: Tensor,
        drawing: Drawing | None = None,
        variant: int = 0,
    ) -> Tensor:
        """(B,3,64,64), (B,), (B,16,384), (B,16) bool, (B,12) -> x0 (B,3,64,64), not clipped.

        `drawing` is `draw`'s of the same text and camera, if there is one already; `variant` is for `draw`.
        """
        label, residuals, bottom = camera, None, None
        if self.takes_sentence:
            label = torch.cat([camera, sentence_features(text_states, text_mask).to(camera.dtype)], dim=-1)
        drawn = None
        if self.sketch is not None:
            known = camera[:, CAMERA_KNOWN]
            if drawing is None:
                drawing = self._draw_where(known > 0, text_states, text_mask, camera, variant)
            drawing = drawing.where(known)
            drawn = drawing.over(camera[:, -2])
            residuals, bottom = self.sketch.residuals(drawing.features)
        sample = noisy if drawn is None else torch.cat([noisy, drawn.to(noisy.dtype)], dim=1)
        sample = F.pixel_unshuffle(sample, self.unshuffle)
        kind = self.unet.conv_in.weight.dtype
        if kind != torch.float32:  # with torch.autocast the weights are float32
            sample, text_states, label = sample.to(kind), text_states.to(kind), label.to(kind)
            residuals = None if residuals is None else [residual.to(kind) for residual in residuals]
            bottom = None if bottom is None else bottom.to(kind)
        clean = self.unet(
            sample.contiguous(memory_format=torch.channels_last),
            timestep,
            text_states,
            class_labels=label,
            encoder_attention_mask=text_mask,
            down_block_additional_residuals=residuals,
            mid_block_additional_residual=bottom,
        ).sample
        clean = F.pixel_shuffle(clean.to(noisy.dtype) if kind != torch.float32 else clean, self.unshuffle)
        if drawn is None:
            return clean
        # The UNet says what is different from the drawing: its few channels a patch need not carry the pixels' detail.
        return clean + drawn.to(clean.dtype)

    def _draw_where(
        self, known: Tensor, text_states: Tensor, text_mask: Tensor, camera: Tensor, variant: int
    ) -> Drawing:
        """`draw` for the images whose camera is known, blank for the others."""
        if known.all() or not known.any():
            return self.draw(text_states, text_mask, camera, variant=variant)
        drawing = self.draw(text_states[known], text_mask[known], camera[known], variant=variant)
        parts = (drawing.rgba, drawing.normal, drawing.features)
        return type(drawing)(*(_place(part, known) for part in parts))


def _place(rows: Tensor, where: Tensor) -> Tensor:
    """Rows (K, ...) -> (B, ...), at the K places where `where` (B,) is true; zeros elsewhere."""
    return rows.new_zeros(len(where), *rows.shape[1:]).masked_scatter(where.view(-1, *[1] * (rows.ndim - 1)), rows)


def sentence_features(text_states: Tensor, text_mask: Tensor) -> Tensor:
    """(B,16,384), (B,16) -> sentence vectors (B,384) with entries of about 1, as the camera's sines have."""
    return sentence_vector(text_states, text_mask) * math.sqrt(WIDTH)
