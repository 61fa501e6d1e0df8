"""The protocol of a diffusion prior (stage 11), and its guided prediction.

`distillation/*.py` use this protocol only; `pocket.py`, `stable_diffusion.py` and `deepfloyd.py` are thin adapters to
it. Letters as in `diffusion/parameterization.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self

import torch
from torch import Tensor

from dreamfusion.diffusion.classifier_free import guide
from dreamfusion.types import Branch, Conditioning, TextEmbedding


class GuidanceError(RuntimeError):
    """The prior's weights are missing or unusable; the message says what was tried and what to type instead."""


class Prior(Protocol):
    """A frozen text-to-image diffusion model.

    Not an `nn.Module`: its owner must neither train it nor write it into a checkpoint. A prior starts on the CPU and
    moves with `to`. Images are float32 at the interface, whatever precision the network runs in.
    """

    name: str  # for logs
    resolution: int  # side of the square image it expects, pixels
    views: int  # images that one prediction couples and that share a timestep; 1, MVDream: 4
    alphas_cumprod: Tensor  # (T,) float32, falling
    guidance_scale: float  # recommended scale for distillation, used where distillation.guidance_scale is null
    weighting: str  # recommended w(t), one of distillation.weighting.WEIGHTINGS
    sample_scale: float  # guidance scale for sampling pictures, far below the one for distillation
    pixel_space: bool  # latents are the image in [-1, 1], so denoised estimates can be clipped to that range

    def to(self, device: torch.device | str) -> Self:
        """Move in place; returns itself."""
        ...

    def warn_if_unknown(self, prompt: str) -> None:
        """Log one warning if the prompt is outside what the prior was trained on."""
        ...

    def encode_text(self, texts: Sequence[str]) -> TextEmbedding:
        """Encode K texts; called once a run. The empty text is the unconditional branch."""
        ...

    def encode_image(self, rgb: Tensor) -> Tensor:
        """(B, 3, r, r) in [0, 1] -> latents (B, C, h, w), differentiable."""
        ...

    def predict(self, noisy: Tensor, timestep: Tensor, branches: Sequence[Branch]) -> tuple[Tensor, ...]:
        """Predict the noise of the same noisy images under each condition, in one batch; no gradient.

        Args:
            noisy: z, (B, C, h, w).
            timestep: (B,) int64.
            branches: conditions of the B images. Priors without camera conditioning ignore cameras and appearance.

        Returns:
            eps for each branch, each the shape of `noisy`, float32, whatever the network itself predicts.
        """
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, r, r) in [0, 1], no gradient; for previews, never in the training step."""
        ...


def text_branch(conditioning: Conditioning) -> Branch:
    """Text, camera and appearance of each view."""
    return Branch(conditioning.text, conditioning.cameras, conditioning.appearance)


def null_branch(conditioning: Conditioning) -> Branch:
    """The negative text with the camera unknown; the appearance stays, so that guidance does not amplify it."""
    return Branch(conditioning.negative, None, conditioning.appearance)


def guided(
    prior: Prior, noisy: Tensor, timestep: Tensor, conditioning: Conditioning, scale: float
) -> tuple[Tensor, Tensor]:
    """eps_hat of `guide`, and eps of the text branch alone. At scale 1 they are equal, and one branch is predicted."""
    if scale == 1:
        (noise_text,) = prior.predict(noisy, timestep, [text_branch(conditioning)])
        return noise_text, noise_text
    noise_text, noise_null = prior.predict(noisy, timestep, [text_branch(conditioning), null_branch(conditioning)])
    return guide(noise_text, noise_null, scale), noise_text


def concatenate_texts(branches: Sequence[Branch]) -> TextEmbedding:
    """The texts of all branches as one batch, in order; all of one (L, D)."""
    texts = [branch.text for branch in branches]
    pooled = [text.pooled for text in texts if text.pooled is not None]
    return TextEmbedding(
        torch.cat([text.states for text in texts]),
        torch.cat([text.mask for text in texts]),
        torch.cat(pooled) if len(pooled) == len(texts) else None,
    )
