"""What a diffusion prior is to the rest of the project, and the arithmetic every adapter and every distillation shares.

Stage 11 of the flow: `distillation/*.py` speak to this protocol only; `pocket.py`, `stable_diffusion.py` and
`deepfloyd.py` are thin adapters to it.

Letters (Poole et al. 2022, Sec. 2; variance preserving): x clean image in the prior's own space, eps the noise,
abar = alphas_cumprod[t], alpha = sqrt(abar), sigma = sqrt(1 - abar), z = alpha x + sigma eps the noisy image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, Self

import torch
from torch import Tensor

from dreamfusion.diffusion.classifier_free import guide
from dreamfusion.types import Cameras, Conditioning, TextEmbedding


class GuidanceError(RuntimeError):
    """A prior cannot be had; says what was tried and what to type instead."""


class Prior(Protocol):
    """A frozen text-to-image diffusion model.

    No `nn.Module`: whatever holds a prior neither trains it nor puts it into a checkpoint. It starts on the CPU and
    goes where `to` sends it. Images come in and go out as float32, whatever precision the network runs in.
    """

    name: str  # for logs
    resolution: int  # side of the square image it expects, pixels
    alphas_cumprod: Tensor  # (T,) float32, falling
    guidance_scale: float  # what suits this prior, where the distillation is given none
    weighting: str  # likewise, one of distillation.sds.WEIGHTINGS
    sample_scale: float  # guidance scale that makes the best pictures, far below the one that makes 3D
    pixel_space: bool  # latents are the image in [-1, 1], so clean estimates are clipped to it in sampling

    def to(self, device: torch.device | str) -> Self:
        """Move in place; returns itself."""
        ...

    def warn_if_unknown(self, prompt: str) -> None:
        """Tell the user once, through `logging`, of a prompt that this prior knows nothing about."""
        ...

    def encode_text(self, texts: Sequence[str]) -> TextEmbedding:
        """K texts -> (K, L, D); once a run. The empty text is the prior's unconditional branch."""
        ...

    def encode_image(self, rgb: Tensor) -> Tensor:
        """(B, 3, r, r) in [0, 1] -> latents (B, C, h, w), differentiable."""
        ...

    def predict_noise(
        self, noisy: Tensor, timestep: Tensor, text: TextEmbedding, cameras: Cameras | None, camera_known: Tensor | None
    ) -> Tensor:
        """The network's eps for z, whatever it predicts inside; no gradient.

        Args:
            noisy: z, (B, C, h, w).
            timestep: (B,) int64.
            text: B texts.
            cameras: B cameras, or None. Priors that take no camera ignore this and the next.
            camera_known: (B,) bool, False where the prior is not to be told the camera, as in the unconditional half
                of a classifier-free batch; None stands for all of `cameras`.

        Returns:
            eps, the shape of `noisy`, float32.
        """
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, r, r) in [0, 1], no gradient; for previews, never in the training step."""
        ...


def predict_both(prior: Prior, noisy: Tensor, timestep: Tensor, conditioning: Conditioning) -> tuple[Tensor, Tensor]:
    """eps for the text and eps for the negative, of B images, in one batch of 2B; the latter is not told the camera."""
    known = torch.ones_like(timestep, dtype=torch.bool)
    noise_text, noise_null = prior.predict_noise(
        torch.cat([noisy, noisy]),
        torch.cat([timestep, timestep]),
        concatenate_text(conditioning.text, conditioning.negative),
        concatenate_cameras(conditioning.cameras, conditioning.cameras),
        torch.cat([known, ~known]),
    ).chunk(2)
    return noise_text, noise_null


def guided(
    prior: Prior, noisy: Tensor, timestep: Tensor, conditioning: Conditioning, scale: float
) -> tuple[Tensor, Tensor]:
    """eps_hat of `guide` and the eps for the text alone. At scale 1 they are one: the negative is not asked for."""
    if scale == 1:
        known = torch.ones_like(timestep, dtype=torch.bool)
        noise_text = prior.predict_noise(noisy, timestep, conditioning.text, conditioning.cameras, known)
        return noise_text, noise_text
    noise_text, noise_null = predict_both(prior, noisy, timestep, conditioning)
    return guide(noise_text, noise_null, scale), noise_text


def concatenate_text(*parts: TextEmbedding) -> TextEmbedding:
    """One batch of the texts of all parts, in order; all of one (L, D)."""
    return TextEmbedding(torch.cat([part.states for part in parts]), torch.cat([part.mask for part in parts]))


def concatenate_cameras(*parts: Cameras) -> Cameras:
    """One batch of the cameras of all parts, in order; the image size is the first part's."""
    return replace(
        parts[0],
        camera_to_world=torch.cat([part.camera_to_world for part in parts]),
        fov=torch.cat([part.fov for part in parts]),
        azimuth=torch.cat([part.azimuth for part in parts]),
        elevation=torch.cat([part.elevation for part in parts]),
        distance=torch.cat([part.distance for part in parts]),
        light=torch.cat([part.light for part in parts]),
        look=None if parts[0].look is None else torch.cat([part.look for part in parts if part.look is not None]),
    )
