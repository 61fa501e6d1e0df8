"""The protocol of a diffusion prior (stage 11), and prediction with classifier-free guidance.

`distillation/` depends on this protocol only; `pocket.py`, `stable_diffusion.py` and `deepfloyd.py` implement the
protocol. Letters as in `diffusion/parameterization.py`.
"""

from collections.abc import Sequence
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from dreamfusion.diffusion.classifier_free import guide
from dreamfusion.types import Branch, Conditioning, TextEmbedding


class GuidanceError(RuntimeError):
    """The prior's weights are missing or unusable; the message says what was tried and what to type."""


class Prior(Protocol):
    """A frozen text-to-image diffusion model.

    Not an `nn.Module`, so that it is neither trained nor saved in checkpoints. A prior starts on the CPU and moves with
    `to`. Images are float32 at the interface, whatever the precision of the network.
    """

    name: str  # for logs
    resolution: int  # side of the square input image, pixels
    views: int  # images that one prediction couples, with one timestep; 1 (MVDream: 4)
    alphas_cumprod: Tensor  # (T,) float32, decreasing
    guidance_scale: float  # recommended scale for distillation, used where distillation.guidance_scale is null
    weighting: str  # recommended w(t), one of distillation.weighting.WEIGHTINGS
    sample_scale: float  # recommended guidance scale for sampling images, lower than for distillation
    pixel_space: bool  # latents are the image in [-1, 1], so x0_hat can be clamped to that range

    def to(self, device: torch.device | str) -> Self:
        """Move in place; returns itself."""
        ...

    def warn_if_unknown(self, prompt: str) -> None:
        """Log one warning if the prompt is outside the training data."""
        ...

    def encode_text(self, texts: Sequence[str]) -> TextEmbedding:
        """Encode K texts; called once a run. The empty text is the unconditional branch."""
        ...

    def encode_image(self, rgb: Tensor) -> Tensor:
        """(B, 3, r, r) in [0, 1] -> latents (B, C, h, w), differentiable."""
        ...

    def predict(self, noisy: Tensor, timestep: Tensor, branches: Sequence[Branch]) -> tuple[Tensor, ...]:
        """Predict the noise in `noisy` under each condition, in one batch, without gradient.

        Args:
            noisy: z, (B, C, h, w).
            timestep: (B,) int64.
            branches: conditions of the B images. Priors without camera conditioning ignore cameras and appearance.

        Returns:
            eps for each branch: float32, the shape of `noisy`, whatever the network's prediction type.
        """
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, r, r) in [0, 1], without gradient; for previews and samples."""
        ...


class PixelSpace:
    """The latents of a prior without an encoder: the image in [-1, 1]."""

    pixel_space = True

    def encode_image(self, rgb: Tensor) -> Tensor:
        """Scale images (B, 3, r, r) from [0, 1] to [-1, 1]."""
        return rgb * 2 - 1

    def decode(self, latents: Tensor) -> Tensor:
        """Scale images (B, 3, r, r) from [-1, 1] to [0, 1], clamped."""
        return (latents.detach() / 2 + 0.5).clamp(0, 1)


@runtime_checkable
class Adaptable(Prior, Protocol):
    """A prior whose network can be fine-tuned on renders by a small adapter, while `predict` stays as it is."""

    def adapt(self, rank: int) -> nn.Module:
        """Add a new adapter and return the module of its parameters; removes an earlier one."""
        ...

    def predict_adapted(self, noisy: Tensor, timestep: Tensor, branch: Branch) -> Tensor:
        """`predict` of one branch with the adapter; differentiable with respect to the adapter's parameters."""
        ...


def text_branch(conditioning: Conditioning) -> Branch:
    """Conditional branch: text, camera and appearance of each view."""
    return Branch(conditioning.text, conditioning.cameras, conditioning.appearance)


def null_branch(conditioning: Conditioning) -> Branch:
    """Negative text and unknown camera, but the same appearance, so that guidance does not amplify appearance."""
    return Branch(conditioning.negative, None, conditioning.appearance)


def empty_branch(conditioning: Conditioning) -> Branch:
    """Empty text and unknown camera: the unconditional prediction, whatever the negative prompt."""
    empty = conditioning.negative if conditioning.empty is None else conditioning.empty
    return Branch(empty, None, conditioning.appearance)


def guided(
    prior: Prior, noisy: Tensor, timestep: Tensor, conditioning: Conditioning, scale: float
) -> tuple[Tensor, Tensor]:
    """eps_hat of `guide`, and eps of the text branch. At scale 1 both are equal and only that branch is predicted."""
    if scale == 1:
        (noise_text,) = prior.predict(noisy, timestep, [text_branch(conditioning)])
        return noise_text, noise_text
    noise_text, noise_null = prior.predict(noisy, timestep, [text_branch(conditioning), null_branch(conditioning)])
    return guide(noise_text, noise_null, scale), noise_text


def concatenate_texts(branches: Sequence[Branch]) -> TextEmbedding:
    """Concatenate the texts of all branches, which have one (L, D), into one batch."""
    texts = [branch.text for branch in branches]
    pooled = [text.pooled for text in texts if text.pooled is not None]
    return TextEmbedding(
        torch.cat([text.states for text in texts]),
        torch.cat([text.mask for text in texts]),
        torch.cat(pooled) if len(pooled) == len(texts) else None,
    )
