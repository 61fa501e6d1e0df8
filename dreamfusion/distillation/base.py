"""Score distillation: the part that all methods share (stage 11 of the flow).

The rendered image is encoded and noised, and a frozen prior gives the gradient of the scene parameters theta:

    grad = w(t) direction(z, t) dx/dtheta        (Poole et al. 2022, Eq. 3)

with the letters of `diffusion/parameterization.py` and the weighting w(t); the prior's Jacobian is omitted (Sec. 3).
A method is one file in this folder that defines `direction` and overrides whatever else its paper changes. The guidance
scale is that of `guide` in all of them, and w(t) multiplies a difference of noises in all of them.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dreamfusion.diffusion.parameterization import alpha_sigma
from dreamfusion.distillation.weighting import WEIGHTINGS, weight
from dreamfusion.guidance.prior import Prior, guided, seen_size
from dreamfusion.image import resize
from dreamfusion.randomness import gaussian
from dreamfusion.schedule import ScheduleLike, schedule
from dreamfusion.types import Conditioning, GuidanceOutput

ANNEALINGS = ("linear", "sqrt")
SAMPLINGS = ("random", "stratified")
BEFORE = 1e-9  # of the run, before a point of a schedule where it may jump


@dataclass(frozen=True, eq=False)
class Step:
    """One distillation step on B views."""

    rgb: Tensor  # (B, 3, H, W) in [0, 1]
    latents: Tensor  # x, (B, C, h, w), differentiable
    timestep: Tensor  # (B,) int64
    abar: Tensor  # (B,) alphas_cumprod at the timestep
    conditioning: Conditioning
    progress: float  # of the run, in [0, 1]
    generator: torch.Generator


class Distillation(nn.Module):
    """Loss on renders and their conditioning whose gradient is that of the method.

    d loss / d x_b = w(t_b) direction_b / B for the image x_b of view b in the prior's space: a mean over views, not
    over pixels and channels (as in threestudio), so the gradient norm grows with their number.

    Trainable parameters of a method (adapters) belong to this module and are saved in checkpoints. The prior is not
    saved because it is not an `nn.Module`.
    """

    recommended_scale: ClassVar[str] = "guidance_scale"  # attribute of the prior, the default of guidance_scale

    def __init__(
        self,
        prior: Prior,
        guidance_scale: ScheduleLike | None,
        weighting: str | None,
        min_timestep: ScheduleLike,
        max_timestep: ScheduleLike,
        annealing: str,
        sampling: str,
        rescale: float,
        clip: bool | None,
        clip_gradient: ScheduleLike | None,
        clip_pixels: ScheduleLike | None,
    ) -> None:
        """Check the settings; their defaults are in conf/distillation/.

        Args:
            prior: frozen, shared by the runs of a process.
            guidance_scale: scale of `guide`, a number or a schedule; None: the prior's recommendation.
            weighting: w(t), one of WEIGHTINGS, see `weight`; None: the prior's recommendation.
            min_timestep, max_timestep: range of t as fractions of the prior's T; numbers or schedules.
            annealing: "linear": the range follows progress; "sqrt": its square root (Zhu et al. 2024, HiFA, Eq. 9).
            sampling: of t in the range: "random", or "stratified" into one equal part for each view.
            rescale: strength of `rescale_clean`, which reduces the contrast added by guidance, 0 (off) to 1.
            clip: clamp x0_hat to [-1, 1], as samplers do; None: only for pixel-space priors.
            clip_gradient: largest absolute value of an entry of w(t) direction; None: no limit.
            clip_pixels: largest norm of a pixel of the gradient of the rendered image, before the division by B
                (Pan et al. 2024, PGC); None: no limit.

        Raises:
            ValueError: an unknown choice, a rescale outside [0, 1], a limit that is not positive, or an empty range of
                timesteps.
        """
        super().__init__()
        self.prior = prior
        self.guidance_scale = schedule(
            getattr(prior, self.recommended_scale) if guidance_scale is None else guidance_scale
        )
        self.weighting = prior.weighting if weighting is None else weighting
        self.min_timestep, self.max_timestep = schedule(min_timestep), schedule(max_timestep)
        self.rescale = rescale
        self.clip = prior.pixel_space if clip is None else clip
        self.annealing, self.sampling = annealing, sampling
        choices = {"weighting": WEIGHTINGS, "annealing": ANNEALINGS, "sampling": SAMPLINGS}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; type distillation.{name}={'|'.join(known)}")
        self.clip_gradient = None if clip_gradient is None else schedule(clip_gradient)
        self.clip_pixels = None if clip_pixels is None else schedule(clip_pixels)
        for name in ("clip_gradient", "clip_pixels"):
            limit = getattr(self, name)
            if limit is not None and limit.lowest <= 0:
                raise ValueError(f"distillation.{name} is {limit.lowest}; a limit must be above 0, or null for none")
        if not 0 <= rescale <= 1:
            raise ValueError(f"rescale is {rescale}, expected 0 (off) to 1; type distillation.rescale=0.5")
        places = sorted({place for one in (self.min_timestep, self.max_timestep) for place, _ in one.points})
        for progress in [*places, *(max(place - BEFORE, 0.0) for place in places)]:
            self._timestep_range(progress)  # both bounds are linear between these points, and may jump at them

    @abstractmethod
    def direction(self, step: Step, noisy: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Unweighted gradient direction in the prior's space, and x0_hat for previews and `image_gradient`.

        Args:
            step: the current step.
            noisy, clean: z and x, (B, C, h, w), detached: the result of `perturb`.
        """

    def perturb(self, step: Step) -> tuple[Tensor, Tensor]:
        """z = alpha x + sigma eps of each view, and x: the render with Gaussian noise, unless a method inverts it."""
        clean = step.latents.detach()
        noise = gaussian(*clean.shape, generator=step.generator, device=clean.device)
        alpha, sigma = alpha_sigma(step.abar)
        return alpha * clean + sigma * noise, clean

    def image_gradient(self, step: Step, denoised: Tensor) -> Tensor | None:
        """Additional gradient d loss / d image (B, 3, h, h), divided by B, for methods with an image-space term.

        `h` is any size: that of the render, or one to which the render is resized.
        """
        return None

    def auxiliary_losses(self, step: Step) -> Mapping[str, Tensor]:
        """Losses of the method's own parameters, by name; they must have no gradient to the scene."""
        return {}

    def figures(self, step: Step) -> Mapping[str, Tensor | float]:
        """Statistics of the step to log, by name; called last, so that they may be those of `direction`."""
        return {}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Optimizer groups of the method's own parameters, each with its learning rate and a name."""
        return []

    def forward(
        self,
        rgb: Tensor,
        conditioning: Conditioning,
        progress: float,
        generator: torch.Generator,
        latents: Tensor | None = None,
    ) -> GuidanceOutput:
        """One step on B views.

        Args:
            rgb: B square images (B, 3, H, H) in [0, 1].
            conditioning: of the same B views.
            progress: fraction of the run that is done, for the schedules.
            generator: the only source of randomness; draws t, then eps.
            latents: (B, C, h, w), the images in the prior's space; None: encodes `rgb`.
        """
        # Only the prior's network may use mixed precision.
        with torch.autocast(rgb.device.type, enabled=False):
            rgb = self._with_clipped_gradient(rgb.float(), progress)
            if latents is None:
                latents = self.prior.encode_image(resize(rgb, seen_size(self.prior, rgb.shape[-1])))
            low, high = self._timestep_range(progress**0.5 if self.annealing == "sqrt" else progress)
            timestep = self.draw_timestep(len(rgb), low, high, generator)
            abar = self.prior.alphas_cumprod[timestep]
            step = Step(rgb, latents, timestep, abar, conditioning, progress, generator)
            direction, denoised = self.direction(step, *self.perturb(step))
            # One overflow of a half-precision network costs one view, not the run; the watchdog sees the prediction.
            finite = direction.isfinite().flatten(1).all(1)[:, None, None, None]
            direction = torch.where(finite, direction, 0.0)
            gradient = weight(self.weighting, abar) * direction
            if self.clip_gradient is not None:
                limit = self.clip_gradient(progress)
                gradient = gradient.clamp(-limit, limit)
            gradient = gradient / len(rgb)
            loss = (gradient * latents).sum()
            image_gradient = self.image_gradient(step, torch.where(finite, denoised, step.latents.detach()))
            if image_gradient is not None:
                loss = loss + (image_gradient * resize(rgb, image_gradient.shape[-1])).sum()
            auxiliary = self.auxiliary_losses(step)
            for own in auxiliary.values():
                loss = loss + own
            return GuidanceOutput(
                loss=loss,
                gradient_norm=gradient.flatten(1).norm(dim=1),
                timestep=timestep,
                noise_level=(1 - abar).sqrt(),
                denoised=denoised,
                latents=latents.detach(),
                losses={name: own.detach() for name, own in auxiliary.items()},
                figures=self.figures(step),
            )

    def guided(self, step: Step, noisy: Tensor) -> Tensor:
        """x0_hat of classifier-free guidance, after `rescale` and `clip`."""
        scale = self.guidance_scale(step.progress)
        denoised, text = guided(self.prior, noisy, step.timestep, step.conditioning, scale)
        if self.rescale > 0:
            denoised = rescale_clean(denoised, text, self.rescale, self.prior.views)
        return self.clipped(denoised)

    def clipped(self, denoised: Tensor) -> Tensor:
        """x0_hat after `clip`; of two that are subtracted, both are clipped, so that equal predictions cancel."""
        return denoised.clamp(-1, 1) if self.clip else denoised

    def draw_timestep(self, count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
        """Timesteps (count,) int64 in [low, high) of T, on the prior's device; one for all views that are coupled."""
        total, views = len(self.prior.alphas_cumprod), self.prior.views
        if count % views:
            raise ValueError(f"camera.views is {count}, not a multiple of {views}; type camera.views={views}")
        place = torch.rand(count // views, generator=generator, device=generator.device)
        if self.sampling == "stratified":
            place = (torch.randperm(len(place), generator=generator, device=generator.device) + place) / len(place)
        fraction = low + (high - low) * place
        timestep = (fraction * total).long().clamp(max=total - 1).repeat_interleave(views)
        return timestep.to(self.prior.alphas_cumprod.device)

    def _with_clipped_gradient(self, rgb: Tensor, progress: float) -> Tensor:
        """The same images; their gradient is limited by `clip_pixels` in the backward pass."""
        if self.clip_pixels is None or not rgb.requires_grad:
            return rgb
        limit = self.clip_pixels(progress) / len(rgb)
        rgb = rgb.view_as(rgb)  # so that the hook sees the gradient of this loss alone
        rgb.register_hook(lambda gradient: gradient * (limit / gradient.norm(dim=1, keepdim=True)).clamp(max=1))
        return rgb

    def _timestep_range(self, progress: float) -> tuple[float, float]:
        """Raises: ValueError: the range is outside [0, 1] or empty."""
        low, high = self.min_timestep(progress), self.max_timestep(progress)
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"the timestep range at progress {progress} is [{low}, {high}], expected 0 <= min <= max <= 1; "
                "see distillation.min_timestep and distillation.max_timestep"
            )
        return low, high


def rescale_clean(guided: Tensor, text: Tensor, strength: float, views: int = 1) -> Tensor:
    """Rescale the guided x0_hat to the standard deviation of the conditional one (Lin et al. 2023, Eq. 15-16).

    Applied to x0_hat, as in MVDream's loss, not to the network's prediction; over channels, pixels, and `views`
    consecutive images that are predicted together.
    """
    groups = [image.unflatten(0, (-1, views)) for image in (text, guided)]
    wanted, own = (group.std((1, 2, 3, 4)).repeat_interleave(views)[:, None, None, None] for group in groups)
    # A constant image has deviation 0; the bound keeps the ratio finite.
    return guided * (strength * wanted / own.clamp(min=1e-6) + (1 - strength))
