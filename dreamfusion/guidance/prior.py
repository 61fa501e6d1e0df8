"""The protocol of a diffusion prior (stage 11), and prediction with classifier-free guidance.

`distillation/` depends on this protocol only; `pocket.py`, `stable_diffusion.py` and `deepfloyd.py` implement the
protocol. Letters as in `diffusion/parameterization.py`.
"""

from collections.abc import Sequence
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from dreamfusion.diffusion.classifier_free import guide, perpendicular
from dreamfusion.error import UserError
from dreamfusion.types import Branch, Cameras, Conditioning, Opposed, TextEmbedding


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

    def denoise(self, noisy: Tensor, timestep: Tensor, branches: Sequence[Branch]) -> tuple[Tensor, ...]:
        """Estimate the clean image of `noisy` under each condition, in one batch, without gradient.

        Args:
            noisy: z, (B, C, h, w).
            timestep: (B,) int64.
            branches: conditions of the B images. Priors without camera conditioning ignore cameras and appearance;
                those with it ignore the cameras of an unconditional branch if they were trained so.

        Returns:
            x0_hat for each branch: float32, the shape of `noisy`, whatever the network's prediction type, see
            `clean_from_prediction`.
        """
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, r, r) in [0, 1], without gradient; for previews and samples."""
        ...


def check_members(prior: object) -> None:
    """Raises: UserError: a class from outside lacks a member of `Prior`."""
    members = [*Prior.__annotations__, *(name for name in vars(Prior) if not name.startswith("_"))]
    if missing := [name for name in members if not hasattr(prior, name)]:
        raise UserError(
            f"guidance makes a {type(prior).__name__}, which lacks {', '.join(missing)}; {Prior.__module__}.Prior says "
            "what they are (docs/extending.md)"
        )


@runtime_checkable
class ImageScorer(Protocol):
    """A prior that scores an image by itself, instead of predicting noise."""

    def score(self, latents: Tensor, conditioning: Conditioning) -> Tensor:
        """Agreement of each image with its text, (B,), at most 1."""
        ...


@runtime_checkable
class PictureConditioned(Protocol):
    """A prior that is conditioned on a picture of the object and on the cameras relative to the picture's."""

    def look_at(self, rgb: Tensor, camera: Cameras) -> None:
        """Condition all further predictions on a picture.

        Args:
            rgb: (1, 3, S, S) in [0, 1], the object over white.
            camera: (1), of the picture.
        """
        ...


@runtime_checkable
class Multiscale(Protocol):
    """A prior that looks at images of several sizes."""

    sizes: tuple[int, ...]  # pixels a side, increasing; the first is `resolution`


def seen_size(prior: Prior, pixels: int) -> int:
    """Side of the images that the prior looks at, of views of `pixels`: its largest size that these fill."""
    sizes = prior.sizes if isinstance(prior, Multiscale) else (prior.resolution,)
    return max((size for size in sizes if size <= pixels), default=prior.resolution)


def check_groups(prior: Prior, group: int) -> None:
    """Raises: UserError: the cameras are not drawn in groups that the prior can predict together."""
    if prior.views > 1 and group != prior.views:  # a larger group has less than 360 / views degrees between its cameras
        raise UserError(
            f"guidance {prior.name} predicts {prior.views} views around the object together, but camera.group is "
            f"{group}; type camera=multiview"
        )


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
    """A prior whose network can be fine-tuned on renders by a small adapter, while `denoise` stays as it is."""

    adapter_learning_rate: float  # recommended, used where distillation.learning_rate is null

    def adapt(self, rank: int) -> nn.Module:
        """Add a new adapter and return the module of its parameters; removes an earlier one."""
        ...

    def denoise_adapted(self, noisy: Tensor, timestep: Tensor, branch: Branch) -> Tensor:
        """`denoise` of one branch with the adapter; differentiable with respect to the adapter's parameters."""
        ...


def text_branch(conditioning: Conditioning) -> Branch:
    """Conditional branch: text, camera and appearance of each view."""
    return Branch(conditioning.text, conditioning.cameras, conditioning.appearance)


def null_branch(conditioning: Conditioning) -> Branch:
    """Negative text and, for most priors, unknown camera, but the same appearance, which guidance would amplify."""
    return Branch(conditioning.negative, conditioning.cameras, conditioning.appearance, unconditional=True)


def opposed_branches(conditioning: Conditioning, opposed: Opposed) -> list[Branch]:
    """The N texts of perp-neg, with the camera and appearance of each view."""
    count, views = opposed.weights.shape
    index = torch.arange(count * views, device=opposed.weights.device).view(count, views)
    texts = [opposed.texts[row] for row in index]
    return [Branch(text, conditioning.cameras, conditioning.appearance) for text in texts]


def denoise_steered(
    prior: Prior, noisy: Tensor, timestep: Tensor, conditioning: Conditioning, branches: Sequence[Branch]
) -> tuple[Tensor, ...]:
    """`Prior.denoise` of `branches`, the text's first and the unconditional one second; perp-neg changes the first.

    With d = x_text - x_null, perp-neg (Armandpour et al. 2023, Sec. 4) adds to x_text the sum over the opposed texts of
    w_i times the component of x_i - x_null that is perpendicular to d. The paper has eps in place of x0_hat: for the
    same z, differences of both are proportional.
    """
    opposed = conditioning.opposed
    if opposed is None:
        return prior.denoise(noisy, timestep, branches)
    estimates = prior.denoise(noisy, timestep, [*branches, *opposed_branches(conditioning, opposed)])
    text, null, count = estimates[0], estimates[1], len(branches)
    steered = text
    for weight, clean in zip(opposed.weights, estimates[count:], strict=True):
        steered = steered + weight[:, None, None, None] * perpendicular(clean - null, text - null)
    return (steered, *estimates[1:count])


def empty_branch(conditioning: Conditioning) -> Branch:
    """Empty text, camera and appearance as in `null_branch`: the unconditional prediction without a negative prompt."""
    empty = conditioning.negative if conditioning.empty is None else conditioning.empty
    return Branch(empty, conditioning.cameras, conditioning.appearance, unconditional=True)


def guided(
    prior: Prior, noisy: Tensor, timestep: Tensor, conditioning: Conditioning, scale: float
) -> tuple[Tensor, Tensor]:
    """x0_hat of `guide`, and x0_hat of the text branch, after perp-neg.

    At scale 1 both are equal; without perp-neg, only that branch is predicted then.
    """
    branches = [text_branch(conditioning), null_branch(conditioning)]
    if scale == 1 and conditioning.opposed is None:
        (text,) = prior.denoise(noisy, timestep, branches[:1])
        return text, text
    text, null = denoise_steered(prior, noisy, timestep, conditioning, branches)
    return guide(text, null, scale), text


def concatenate_texts(branches: Sequence[Branch]) -> TextEmbedding:
    """Concatenate the texts of all branches, which have one (L, D), into one batch."""
    texts = [branch.text for branch in branches]
    pooled = [text.pooled for text in texts if text.pooled is not None]
    scenes = {text.scene for text in texts}
    return TextEmbedding(
        torch.cat([text.states for text in texts]),
        torch.cat([text.mask for text in texts]),
        torch.cat(pooled) if len(pooled) == len(texts) else None,
        scenes.pop() if len(scenes) == 1 else None,
    )
