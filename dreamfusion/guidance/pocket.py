"""The pocket prior (stage 11, `guidance=pocket`, the default): 64x64 or 128x128 pixels, camera-conditioned, part of
the package.

It needs no GPU, no download and no login. The network is `pocket/model/denoiser.py`; latents are the image in [-1, 1].
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from dreamfusion.error import GuidanceError
from dreamfusion.guidance.adapter import AdaptablePrior
from dreamfusion.guidance.pocket_scenes import RANDOM, Scenes
from dreamfusion.guidance.pocket_vocabulary import Vocabulary
from dreamfusion.guidance.pretrained import choose_dtype, refused
from dreamfusion.guidance.prior import PixelSpace, concatenate_texts
from dreamfusion.guidance.recognition import Recognised, nearest_model
from dreamfusion.ops.constants import constant
from dreamfusion.ops.precision import processor_bfloat16
from dreamfusion.pocket import WEIGHTS
from dreamfusion.pocket.model.denoiser import (
    CAMERA_FEATURES,
    SIZES,
    WHITE,
    PocketModel,
    camera_features,
    sentence_features,
    with_appearance,
)
from dreamfusion.pocket.model.text import TextEncoder
from dreamfusion.pocket.model.words import with_article
from dreamfusion.truth.composed import Placed
from dreamfusion.types import Branch, TextEmbedding

if TYPE_CHECKING:
    from dreamfusion.pocket.model.proxy_render import ProxyRender

DISTANCE = (2.7, 3.3)  # scene units, range of the training data
ELEVATION = (-15.0, 75.0)  # degrees, range of the training data


class PocketPrior(PixelSpace, AdaptablePrior):
    """The project's own small prior over renders of everyday objects from all sides.

    The network predicts the clean image, which fits the weighting "reconstruction": the gradient is render - x0_hat.
    """

    name = "pocket"
    sample_scale = 1.0
    views = 1
    # Not attention alone: its few layers see 2 x 2 patches.
    adapted_layers = ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2")
    # The adapter has to follow a scene that forms within hundreds of steps: at 1e-4 it learns nothing in 120 steps.
    adapter_learning_rate = 0.01
    sees_camera = True

    def __init__(
        self,
        weights: str | Path | None,
        camera_conditioning: bool,
        guidance_scale: float,
        untold_guidance_scale: float,
        weighting: str,
        variant: int | str,
        variant_seed: int,
        dtype: str,
        size: int | None,
        cuda_graph: bool,
    ) -> None:
        """Read the weights.

        Args:
            weights: folder with `unet/` and `scheduler/`; None is the package's own. A missing `text_encoder/` is
                replaced by the package's; without `vocabulary.txt` no prompt counts as unknown.
            camera_conditioning: condition the network on the camera; False: the network's "unknown camera" input.
            guidance_scale, weighting: recommended values for distillation, see `Prior`.
            untold_guidance_scale: in place of guidance_scale without camera_conditioning. The text's branch alone
                denoises to the mean of all sides, which fades: a scene that follows it faster than the timesteps fall
                is empty after a hundred steps.
            variant: index from 0 of the model among those with the same name, such as several chairs; "random": drawn.
            variant_seed: of the random variant.
            dtype: of the U-Net: "float32", "float16", "bfloat16", or "auto": float16 on CUDA, bfloat16 on processors
                with bfloat16 products, else float32. Applied by `to`; the weights are loaded as float32.
            size: pixels a side of the images, one of SIZES; None: as large as the views fill.
            cuda_graph: on CUDA, replay predictions as one CUDA graph; without effect while the network has an adapter,
                without camera_conditioning, and for texts of several scenes.

        Raises:
            GuidanceError: the folder has no complete prior, the variant is neither "random" nor 0 or more, or the size
                is not in SIZES.
            ValueError: an unknown dtype.
        """
        if dtype != "auto":
            choose_dtype(dtype, torch.device("cpu"))
        self.guidance_scale = guidance_scale if camera_conditioning else untold_guidance_scale
        self.weighting = weighting
        self.camera_conditioning = camera_conditioning
        self._folder = Path(weights).expanduser() if weights is not None else WEIGHTS
        for part in ("unet", "scheduler"):
            if not (self._folder / part).exists():
                raise GuidanceError(
                    f"no pocket prior in {self._folder}: {part} is missing; set guidance.weights=null for the built-in "
                    "weights, or to a folder that `python launch.py mode=pretrain` wrote"
                )
        damaged, remedy = (
            f"the pocket prior in {self._folder} cannot be read",
            "; guidance.weights=null is the built-in one",
        )
        with refused(damaged, remedy):
            self.model = PocketModel.load(self._folder).eval().requires_grad_(False)
        if variant != RANDOM and (not isinstance(variant, int) or variant < 0):
            raise GuidanceError(
                f"guidance.variant={variant}, expected {RANDOM}, or 0 or more: the index among models of one name"
            )
        if size is not None and size not in SIZES:
            raise GuidanceError(f"guidance.size={size}, expected null or one of {', '.join(map(str, SIZES))} pixels")
        self.variant = variant
        own = self._folder / "text_encoder"
        with refused(damaged, remedy):
            self.text_encoder = TextEncoder.load(own if own.is_dir() else WEIGHTS / "text_encoder")
        self.sizes = SIZES if size is None else (size,)
        self.resolution: int = self.sizes[0]
        # A separate copy: noise levels stay float32 when the network runs in half precision.
        self.alphas_cumprod = self.model.alphas_cumprod.float().clone()
        self.dtype, self._dtype = dtype, torch.float32
        self._vocabulary = Vocabulary(self._folder, self.text_encoder)
        self._scenes = Scenes(self.model, self.text_encoder, self._folder, variant, variant_seed)
        self.cuda_graph = cuda_graph

    def to(self, device: torch.device | str) -> Self:
        """Move in place. On CUDA the whole network has the U-Net's precision; elsewhere all but the
        U-Net is float32.
        """
        device = torch.device(device)
        unet = choose_dtype(self.dtype, device)
        if self.dtype == "auto" and device.type == "cpu" and processor_bfloat16():
            unet = torch.bfloat16
        self._dtype = unet if device.type == "cuda" else torch.float32
        self._graph = None
        with self._adapter_as_it_is(device):
            self.model.to(device, self._dtype)
            self.model.unet_to(unet)
        self.text_encoder.to(device)
        self.alphas_cumprod = self.alphas_cumprod.to(device)
        return self

    def warn_if_unknown(self, prompt: str) -> None:
        """Log how the prompt is read; a warning if it names nothing known.

        Raises:
            GuidanceError: `variant` is not below the number of models with the prompt's name.
        """
        if self._vocabulary.names:
            self._scenes.check_variant(self._vocabulary.announce(prompt))

    def encode_text(self, texts: Sequence[str]) -> TextEmbedding:
        """Encode K texts, those with known objects in the words of the training captions: states (K, 16, 384), zero at
        padding; `pooled` (K, 1) is the number of each text's scene, see `Scenes`.
        """
        readings = [self._vocabulary.read(text) for text in texts]
        captions = [reading.caption or text for text, reading in zip(texts, readings, strict=True)]
        encoded = self.text_encoder(captions)
        return encoded if self.model.feature_volume is None else self._scenes.numbered(encoded, captions, readings)

    def layout(self, prompt: str) -> tuple[Placed, ...] | None:
        """See `Composer.layout`."""
        return self._scenes.layout(self._vocabulary.read(prompt))

    def recognise(self, picture: Tensor, azimuth: float | None, elevation: float | None) -> Recognised:
        """See `Recognizer.recognise`; takes half a minute of one core."""
        volume = self.model.feature_volume
        if volume is None:
            raise GuidanceError(f'the weights in {self._folder} have no codes to fit a picture; type prompt="a cat"')
        texts = self.text_encoder([with_article(name) for name in volume.vocabulary])
        rows = torch.tensor([volume.vocabulary.index(name) for name in volume.names], device=texts.states.device)
        sentences = sentence_features(texts.states, texts.mask)[rows].to(volume.codes)
        return nearest_model(volume, sentences, picture.to(sentences), azimuth, elevation)

    @property
    def _network(self) -> Any:
        return self.model.unet

    def _denoise(self, noisy: Tensor, timestep: Tensor, branches: Sequence[Branch]) -> tuple[Tensor, ...]:
        """See `Prior.denoise`; cameras are clamped to the range of the training data."""
        count, text = len(branches), concatenate_texts(branches)
        camera = torch.cat([self._camera_features(branch, noisy) for branch in branches])
        proxy = self._render_proxy(branches, camera.to(self._dtype), noisy.shape[-1])
        noisy, timestep, dtype = noisy.repeat(count, 1, 1, 1), timestep.repeat(count), self._dtype
        states, mask = text.states.to(dtype), text.mask
        given = noisy.to(dtype), timestep, states, mask, camera.to(dtype)
        if proxy is None:  # the network reads back what to render
            clean = self.model(*given, variant=0 if self.variant == RANDOM else self.variant)
        else:
            clean = self.model(*given, proxy)
        return clean.float().chunk(count)

    def _reads_nothing_back(self, branches: Sequence[Branch]) -> bool:
        scenes = {branch.text.scene for branch in branches if self._sees_camera(branch)}
        return len(scenes) == 1 and None not in scenes

    def _read_beside(self) -> object:
        return self.model.feature_volume and self.model.feature_volume.decoded

    def _render_proxy(self, branches: Sequence[Branch], camera: Tensor, size: int) -> "ProxyRender | None":
        """The network's proxy renders, zeros for branches without a camera; None: the network selects the models."""
        known = [self._sees_camera(branch) for branch in branches]
        if not any(known) or self.model.feature_volume is None:
            return None
        text = concatenate_texts([branch for branch, seen in zip(branches, known, strict=True) if seen])
        rows = torch.cat([part for part, seen in zip(camera.chunk(len(known)), known, strict=True) if seen])
        proxy = self._scenes.render(text, rows, size)
        if proxy is None:
            return None

        def placed(part: Tensor) -> Tensor:
            rendered = iter(part.chunk(sum(known)))
            nothing = part.new_zeros(len(part) // sum(known), *part.shape[1:])
            return torch.cat([next(rendered) if seen else nothing for seen in known])

        return type(proxy)(placed(proxy.rgba), placed(proxy.normal), placed(proxy.features))

    def _sees_camera(self, branch: Branch) -> bool:
        return branch.cameras is not None and self.camera_conditioning and not branch.unconditional

    def _camera_features(self, branch: Branch, noisy: Tensor) -> Tensor:
        """(B, 12): camera (zeros if unknown) and appearance (white background, unlit if unknown)."""
        features, cameras = noisy.new_zeros(len(noisy), CAMERA_FEATURES), branch.cameras
        if cameras is not None and self._sees_camera(branch):
            features = camera_features(
                cameras.azimuth, cameras.elevation.clamp(*ELEVATION), cameras.distance.clamp(*DISTANCE)
            )
        if not self.model.takes_sentence:  # early weights have no appearance input
            return features
        unknown = constant(WHITE, features.device, features.dtype).expand(len(features), 2)
        return with_appearance(features, unknown if branch.appearance is None else branch.appearance)
