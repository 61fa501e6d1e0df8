"""Score distillation: the steps that all methods share (stage 11 of the flow).

A rendered image is encoded and noised, and a frozen prior gives the direction in which to change it:

    grad = w(t) direction(z, t) dx/dtheta        (Poole et al. 2022, Eq. 3)

with the letters of `diffusion/parameterization.py`, w(t) the weighting, and without the prior's Jacobian (Sec. 3).
A method is one file in this folder that defines `direction`, and overrides what else its paper changes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dreamfusion.diffusion.parameterization import alpha_sigma, clean_from_noise
from dreamfusion.distillation.weighting import WEIGHTINGS, weight
from dreamfusion.guidance.prior import Prior, guided
from dreamfusion.image import resize
from dreamfusion.schedule import ScheduleLike, schedule
from dreamfusion.types import Conditioning, GuidanceOutput, RenderOutput


@dataclass(frozen=True, eq=False)
class Step:
    """One distillation step on B views."""

    render: RenderOutput
    latents: Tensor  # x, (B, C, h, w), differentiable
    timestep: Tensor  # (B,) int64
    abar: Tensor  # (B,) alphas_cumprod at the timestep
    conditioning: Conditioning
    progress: float  # of the run, in [0, 1]
    generator: torch.Generator


class Distillation(nn.Module):
    """Renders and their conditioning -> a loss whose gradient is the method's.

    Units: with x the image in the prior's space, d loss / d x_b = w(t_b) direction_b / B: a mean over views and no
    mean over pixels or channels (as in threestudio), so a prior with more of them has a larger gradient.

    Trained parameters of a method (adapters) belong to this module and travel in the checkpoint; the prior does not,
    because it is no `nn.Module`.
    """

    def __init__(
        self,
        prior: Prior,
        guidance_scale: ScheduleLike | None,
        weighting: str | None,
        min_timestep: ScheduleLike,
        max_timestep: ScheduleLike,
        rescale: float,
        clip: bool | None,
    ) -> None:
        """Check the settings; conf/distillation/ holds their defaults.

        Args:
            prior: shared between the runs of a process.
            guidance_scale: s of `guide`, a number or a schedule; None: the prior's recommendation.
            weighting: w(t), one of WEIGHTINGS, see `weight`; None: the prior's recommendation.
            min_timestep, max_timestep: range of t as fractions of the prior's T; numbers or schedules.
            rescale: how far `rescale_clean` undoes the contrast added by guidance, 0 (off) to 1.
            clip: clamp x0_hat to the range of images, as samplers do; None: if the prior's space is the image.

        Raises:
            ValueError: an unknown weighting, a rescale outside [0, 1], or an empty range of timesteps.
        """
        super().__init__()
        self.prior = prior
        self.guidance_scale = schedule(prior.guidance_scale if guidance_scale is None else guidance_scale)
        self.weighting = prior.weighting if weighting is None else weighting
        self.min_timestep, self.max_timestep = schedule(min_timestep), schedule(max_timestep)
        self.rescale = rescale
        self.clip = prior.pixel_space if clip is None else clip
        if self.weighting not in WEIGHTINGS:
            raise ValueError(
                f"unknown weighting {self.weighting!r}; type distillation.weighting={'|'.join(WEIGHTINGS)}"
            )
        if not 0 <= rescale <= 1:
            raise ValueError(f"rescale is {rescale}, expected 0 (off) to 1; type distillation.rescale=0.5")
        for progress in sorted({place for one in (self.min_timestep, self.max_timestep) for place, _ in one.points}):
            self._timestep_range(progress)  # linear between these

    @abstractmethod
    def direction(self, step: Step, noisy: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The method: the unweighted gradient direction in the prior's space, and x0_hat for previews and `clip`.

        Args:
            step: the current step.
            noisy: z, (B, C, h, w), detached.
            noise: eps, the result of `noise`.
        """

    def noise(self, step: Step) -> Tensor:
        """eps for each view: Gaussian, unless a method inverts or correlates noise."""
        shape, generator = step.latents.shape, step.generator
        return torch.randn(shape, generator=generator, device=generator.device).to(step.latents.device)

    def image_gradient(self, step: Step, denoised: Tensor) -> Tensor | None:
        """d loss / d rgb (B, 3, H, W) beside the latent gradient, for methods that have one; already divided by B."""
        return None

    def auxiliary_losses(self, step: Step) -> Mapping[str, Tensor]:
        """Losses of the method's own parameters, added to the loss; they must not reach the scene."""
        return {}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Optimizer groups of the method's own parameters, each with its learning rate."""
        return []

    def forward(
        self, render: RenderOutput, conditioning: Conditioning, progress: float, generator: torch.Generator
    ) -> GuidanceOutput:
        """One step on B views.

        Args:
            render: B square images.
            conditioning: of the same B views.
            progress: the run's past fraction, for the schedules.
            generator: the only source of randomness: t, then eps.
        """
        rgb = render.rgb
        # Mixed precision is the business of the prior's network alone.
        with torch.autocast(rgb.device.type, enabled=False):
            latents = self.prior.encode_image(resize(rgb.float(), self.prior.resolution))
            timestep = self._draw_timestep(len(rgb), progress, generator).to(rgb.device)
            abar = self.prior.alphas_cumprod[timestep]
            step = Step(render, latents, timestep, abar, conditioning, progress, generator)
            noise = self.noise(step)
            alpha, sigma = alpha_sigma(abar)
            noisy = alpha * latents.detach() + sigma * noise
            direction, denoised = self.direction(step, noisy, noise)
            gradient = weight(self.weighting, abar) * direction / len(rgb)
            loss = (gradient * latents).sum()
            image_gradient = self.image_gradient(step, denoised)
            if image_gradient is not None:
                loss = loss + (image_gradient * rgb).sum()
            for auxiliary in self.auxiliary_losses(step).values():
                loss = loss + auxiliary
            return GuidanceOutput(
                loss=loss,
                gradient_norm=gradient.flatten(1).norm(dim=1),
                timestep=timestep,
                noise_level=sigma.flatten(),
                denoised=denoised,
            )

    def guided(self, step: Step, noisy: Tensor) -> tuple[Tensor, Tensor]:
        """eps_hat by classifier-free guidance and x0_hat, after `rescale` and `clip`."""
        scale = self.guidance_scale(step.progress)
        noise_hat, noise_text = guided(self.prior, noisy, step.timestep, step.conditioning, scale)
        denoised = clean_from_noise(noise_hat, noisy, step.abar)
        if self.rescale > 0:
            denoised = rescale_clean(denoised, clean_from_noise(noise_text, noisy, step.abar), self.rescale)
        if self.clip:
            denoised = denoised.clamp(-1, 1)
        if self.rescale > 0 or self.clip:
            alpha, sigma = alpha_sigma(step.abar)
            noise_hat = (noisy - alpha * denoised) / sigma
        return noise_hat, denoised

    def _draw_timestep(self, count: int, progress: float, generator: torch.Generator) -> Tensor:
        """(count,) int64, uniform over the fractions [min, max) of T at `progress`; shared by coupled views."""
        low, high = self._timestep_range(progress)
        total, views = len(self.prior.alphas_cumprod), self.prior.views
        if count % views:
            raise ValueError(f"camera.views is {count}, not a multiple of {views}; type camera.views={views}")
        fraction = low + (high - low) * torch.rand(count // views, generator=generator, device=generator.device)
        return (fraction * total).long().clamp(max=total - 1).repeat_interleave(views)

    def _timestep_range(self, progress: float) -> tuple[float, float]:
        """Raises: ValueError: no fractions of T, or the first above the second."""
        low, high = self.min_timestep(progress), self.max_timestep(progress)
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"the timestep range at progress {progress} is [{low}, {high}], expected 0 <= min <= max <= 1; "
                "see distillation.min_timestep and distillation.max_timestep"
            )
        return low, high


def rescale_clean(guided: Tensor, text: Tensor, strength: float) -> Tensor:
    """Give the guided clean image the standard deviation of the unguided one (Lin et al. 2023, Eq. 15-16).

    On the clean image, as in MVDream's loss, not on the network's prediction; per image over channels and pixels.
    """
    dims = (1, 2, 3)
    # An image of one flat colour has deviation 0: without the bound its ratio is infinite.
    ratio = text.std(dims, keepdim=True) / guided.std(dims, keepdim=True).clamp(min=1e-6)
    return guided * (strength * ratio + (1 - strength))
