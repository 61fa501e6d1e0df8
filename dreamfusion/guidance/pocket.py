"""The pocket prior behind the `Prior` protocol: 64x64 pixels, told the camera, carried by the package itself.

Stage 11 for `guidance=pocket`, the default: needs no GPU, no download, no login. The network is
`pocket/model/denoiser.py`; its space is the image itself in [-1, 1].
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from dreamfusion.diffusion.parameterization import noise_from_prediction
from dreamfusion.guidance.pretrained import choose_dtype
from dreamfusion.guidance.prior import GuidanceError, concatenate_texts
from dreamfusion.ops.precision import processor_bfloat16
from dreamfusion.pocket import WEIGHTS
from dreamfusion.pocket.model.denoiser import (
    CAMERA_FEATURES,
    WHITE,
    PocketModel,
    camera_features,
    sentence_features,
    with_appearance,
)
from dreamfusion.pocket.model.text import TextEncoder
from dreamfusion.types import Branch, TextEmbedding

log = logging.getLogger(__name__)

DISTANCE = (2.7, 3.3)  # scene units, what the prior saw in training
ELEVATION = (-15.0, 75.0)  # degrees, likewise
# Cosine of all-MiniLM-L6-v2 to the nearest "a <name>". Chosen on 34 near and 34 foreign prompts; on 68 others it let
# 26 of 34 near ones pass ("a tabby cat", not "a rucksack") and warned of all 34 foreign ones.
KNOWN = 0.6
NEAREST = 4  # names in the warning


class PocketPrior:
    """The project's own small prior over everyday objects seen from all sides.

    The network predicts the clean image: weighting "reconstruction", the gradient render - x0_hat, is its natural one.
    """

    name = "pocket"
    sample_scale = 1.0
    pixel_space = True
    views = 1

    def __init__(
        self,
        weights: str | Path | None,
        camera_conditioning: bool,
        guidance_scale: float,
        weighting: str,
        variant: int,
        dtype: str,
    ) -> None:
        """Read the weights.

        Args:
            weights: folder with `unet/` and `scheduler/`; None is the package's own. The frozen `text_encoder/` is
                taken from the package if the folder has none; without a `vocabulary.txt` no prompt is called unknown.
            camera_conditioning: tell the network where the camera stands; False is its "camera unknown".
            guidance_scale, weighting: what the distillation takes where it is given none.
            variant: which model of those that go by the name asked for, from 0: "a chair" is one of several chairs.
            dtype: of the U-Net: "float32", "float16", "bfloat16", or "auto", which is float16 on CUDA, bfloat16 on
                processors that multiply it, and float32 elsewhere. Taken by `to`; it is loaded as float32.

        Raises:
            GuidanceError: no complete prior in the folder, or a negative variant.
            ValueError: an unknown dtype.
        """
        if dtype != "auto":
            choose_dtype(dtype, torch.device("cpu"))
        self.guidance_scale, self.weighting = guidance_scale, weighting
        self.camera_conditioning = camera_conditioning
        self._folder = Path(weights).expanduser() if weights is not None else WEIGHTS
        for part in ("unet", "scheduler"):
            if not (self._folder / part).exists():
                raise GuidanceError(
                    f"no pocket prior in {self._folder}: {part} is missing; leave guidance.weights=null for the one "
                    "of the package, or give the folder that `python launch.py mode=pretrain` wrote"
                )
        self.model = PocketModel.load(self._folder).eval().requires_grad_(False)
        if variant < 0:
            raise GuidanceError(f"guidance.variant={variant}, expected 0 or more: which of the models of a name")
        self.variant = variant
        own = self._folder / "text_encoder"
        self.text_encoder = TextEncoder.load(own if own.is_dir() else WEIGHTS / "text_encoder")
        self.resolution: int = self.model.resolution
        # A copy of its own: the network may run in half precision, the noise levels never do.
        self.alphas_cumprod = self.model.alphas_cumprod.float().clone()
        self.dtype, self._dtype = dtype, torch.float32

    def to(self, device: torch.device | str) -> Self:
        """Move in place; on CUDA (not run there yet) all of the network in the U-Net's precision, elsewhere the sketch,
        whose picture the U-Net's is added to, in float32.
        """
        device = torch.device(device)
        unet = choose_dtype(self.dtype, device)
        if self.dtype == "auto" and device.type == "cpu" and processor_bfloat16():
            unet = torch.bfloat16
        self._dtype = unet if device.type == "cuda" else torch.float32
        self.model.to(device, self._dtype)
        self.model.unet_to(unet)
        self.text_encoder.to(device)
        self.alphas_cumprod = self.alphas_cumprod.to(device)
        return self

    def warn_if_unknown(self, prompt: str) -> None:
        """Log a warning that names the nearest things the prior saw, if the prompt is far from all of them.

        A prompt is known if it names one of them, or if its sentence vector has a cosine of KNOWN to "a <name>".

        Raises:
            GuidanceError: it has fewer models of what the prompt names than `variant` asks for.
        """
        self._check_variant(prompt)
        names = self._names
        if not names:
            return
        if any(re.search(rf"\b{re.escape(name)}\b", prompt, re.IGNORECASE) for name in names):
            return
        cosine = self._name_vectors @ self.text_encoder.sentence([prompt])[0].cpu()
        if cosine.max() >= KNOWN:
            return
        nearest = ", ".join(f'"a {names[i]}"' for i in cosine.topk(min(NEAREST, len(names))).indices.tolist())
        log.warning(
            'The pocket prior never saw anything like "%s" (it knows %d things; nearest: %s). '
            "The shape will not follow the prompt; use guidance=sd for open vocabulary.",
            prompt,
            len(names),
            nearest,
        )

    def encode_text(self, texts: Sequence[str]) -> TextEmbedding:
        """K texts -> states (K, 16, 384), zero at padding."""
        return self.text_encoder(texts)

    def encode_image(self, rgb: Tensor) -> Tensor:
        """(B, 3, 64, 64) in [0, 1] -> the same in [-1, 1]."""
        return rgb * 2 - 1

    @torch.no_grad()
    def predict(self, noisy: Tensor, timestep: Tensor, branches: Sequence[Branch]) -> tuple[Tensor, ...]:
        """See `Prior.predict`; cameras are clamped to the range of the training data."""
        count, text = len(branches), concatenate_texts(branches)
        camera = torch.cat([self._camera_features(branch, noisy) for branch in branches])
        noisy, timestep, dtype = noisy.repeat(count, 1, 1, 1), timestep.repeat(count), self._dtype
        clean = self.model(
            noisy.to(dtype), timestep, text.states.to(dtype), text.mask, camera.to(dtype), variant=self.variant
        )
        return noise_from_prediction("sample", clean.float(), noisy, self.alphas_cumprod[timestep]).chunk(count)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, 3, 64, 64) in [-1, 1] -> the same in [0, 1]."""
        return (latents.detach() / 2 + 0.5).clamp(0, 1)

    def _camera_features(self, branch: Branch, noisy: Tensor) -> Tensor:
        """(B, 12): the camera, zeros where unknown, and the appearance, white and unlit where unknown."""
        features, cameras = noisy.new_zeros(len(noisy), CAMERA_FEATURES), branch.cameras
        if cameras is not None and self.camera_conditioning:
            features = camera_features(
                cameras.azimuth, cameras.elevation.clamp(*ELEVATION), cameras.distance.clamp(*DISTANCE)
            )
        if not self.model.takes_sentence:  # the first weights were trained without appearance
            return features
        unknown = features.new_tensor(WHITE).expand(len(features), 2)
        return with_appearance(features, unknown if branch.appearance is None else branch.appearance)

    def _check_variant(self, prompt: str) -> None:
        if self.variant == 0 or self.model.feature_volume is None:
            return
        text, volume = self.encode_text([prompt]), self.model.feature_volume
        (subject,) = volume.select_subjects(sentence_features(text.states, text.mask), 0).tolist()
        name = volume.names[subject]
        known = len(volume.variants(name))
        if self.variant >= known:
            raise GuidanceError(
                f'guidance.variant={self.variant}, but the prior knows {known} of "{name}"; type 0 to {known - 1}'
            )

    @cached_property
    def _names(self) -> list[str]:
        """What the prior saw; nothing if the folder does not say."""
        file = self._folder / "vocabulary.txt"
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        return [line.strip() for line in lines if line.strip()]

    @cached_property
    def _name_vectors(self) -> Tensor:
        """Sentence vectors (N, 384) of the names: seconds, and needed for strange prompts alone."""
        return self.text_encoder.sentence([f"a {name}" for name in self._names]).cpu()
