"""Score distillation sampling: a prior's opinion of a rendered image, as a gradient on that image.

Stage 11 of the flow, Poole et al. 2022, Eq. 3:  grad = w(t) (eps_hat(z; y, t) - eps) dx/dtheta, with the letters of
`guidance/prior.py`; y the text, w(t) the weighting. The prior is frozen, and its Jacobian is left out (Sec. 3).
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from dreamfusion.diffusion.parameterization import alpha_sigma, clean_from_noise
from dreamfusion.guidance.prior import Prior, guided
from dreamfusion.image import resize
from dreamfusion.schedule import ScheduleLike, schedule
from dreamfusion.types import Conditioning, GuidanceOutput

WEIGHTINGS = ("sigma2", "uniform", "alpha_sigma2", "clean", "reconstruction")


class SDS:
    """Images and what the prior is told of them -> a loss whose gradient is Eq. 3.

    Units: with x the image in the prior's space, d loss / d x_b = w(t_b) (eps_hat - eps) / B: a mean over views and no
    mean over pixels or channels (as in threestudio), so a prior with more of them pushes the scene harder.

    No `nn.Module`: the prior stays out of the checkpoint. `to` moves it.
    """

    def __init__(
        self,
        prior: Prior,
        guidance_scale: ScheduleLike | None = None,
        weighting: str | None = None,
        min_timestep: ScheduleLike = 0.02,
        max_timestep: ScheduleLike = 0.98,
        rescale: float = 0.0,
        clip: bool | None = None,
    ) -> None:
        """Check the choices.

        Args:
            prior: what the image is shown to.
            guidance_scale: s of `guide`, a number or a schedule; None takes the prior's own.
            weighting: w(t), one of WEIGHTINGS, see `weight`; None takes the prior's own.
            min_timestep, max_timestep: the range t is drawn from, fractions of the prior's T; numbers or schedules.
            clip: keep x0_hat within the range of images, as samplers do; None: where the prior's space is the image.
            rescale: how far `rescale_clean` undoes the contrast that guidance adds, 0 (off) to 1.

        Raises:
            ValueError: an unknown weighting, a rescale outside [0, 1], or a range of timesteps that is none.
        """
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
            self._timestep_range(progress)  # it is linear between these

    def to(self, device: torch.device | str) -> Self:
        """Move the prior."""
        self.prior.to(device)
        return self

    def __call__(
        self, rgb: Tensor, conditioning: Conditioning, progress: float, generator: torch.Generator
    ) -> GuidanceOutput:
        """One guidance step on B views.

        Args:
            rgb: (B, 3, H, H) in [0, 1].
            conditioning: of the same B views.
            progress: the run's past fraction, for the schedules.
            generator: the only source of randomness: t, then eps.
        """
        # Half precision belongs to the prior's network alone, which sees to it itself.
        with torch.autocast(rgb.device.type, enabled=False):
            latents = self.prior.encode_image(resize(rgb.float(), self.prior.resolution))
            timestep = self._draw_timestep(len(rgb), progress, generator).to(rgb.device)
            noise = torch.randn(latents.shape, generator=generator, device=generator.device).to(rgb.device)
            abar = self.prior.alphas_cumprod[timestep]
            alpha, sigma = alpha_sigma(abar)
            noisy = alpha * latents.detach() + sigma * noise
            noise_hat, denoised = self._guided(noisy, timestep, abar, conditioning, progress)
            gradient = weight(self.weighting, abar) * (noise_hat - noise) / len(rgb)
            return GuidanceOutput(
                loss=(gradient * latents).sum(),
                gradient_norm=gradient.flatten(1).norm(dim=1),
                timestep=timestep,
                noise_level=sigma.flatten(),
                denoised=denoised,
            )

    def _draw_timestep(self, count: int, progress: float, generator: torch.Generator) -> Tensor:
        """(count,) int64, uniform over the fractions [min, max) of T that `progress` allows."""
        low, high = self._timestep_range(progress)
        total = len(self.prior.alphas_cumprod)
        fraction = low + (high - low) * torch.rand(count, generator=generator, device=generator.device)
        return (fraction * total).long().clamp(max=total - 1)

    def _timestep_range(self, progress: float) -> tuple[float, float]:
        """Raises: ValueError: no fractions of T, or the first above the second."""
        low, high = self.min_timestep(progress), self.max_timestep(progress)
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"the timestep range at progress {progress} is [{low}, {high}], expected 0 <= min <= max <= 1; "
                "see distillation.min_timestep and distillation.max_timestep"
            )
        return low, high

    def _guided(
        self, noisy: Tensor, timestep: Tensor, abar: Tensor, conditioning: Conditioning, progress: float
    ) -> tuple[Tensor, Tensor]:
        """eps_hat and the clean image that belongs to it; the text and the negative in one batch of 2B."""
        scale = self.guidance_scale(progress)
        noise_hat, noise_text = guided(self.prior, noisy, timestep, conditioning, scale)
        denoised = clean_from_noise(noise_hat, noisy, abar)
        if self.rescale > 0:
            denoised = rescale_clean(denoised, clean_from_noise(noise_text, noisy, abar), self.rescale)
        if self.clip:
            denoised = denoised.clamp(-1, 1)
        if self.rescale > 0 or self.clip:
            alpha, sigma = alpha_sigma(abar)
            noise_hat = (noisy - alpha * denoised) / sigma
        return noise_hat, denoised


def rescale_clean(guided: Tensor, text: Tensor, strength: float) -> Tensor:
    """Give the guided clean image the standard deviation of the unguided one (Lin et al. 2023, Eq. 15-16).

    On the clean image, as in MVDream's loss, not on the network's prediction; per image over channels and pixels.
    """
    dims = (1, 2, 3)
    # An image of one flat colour has deviation 0: without the bound its ratio is infinite.
    ratio = text.std(dims, keepdim=True) / guided.std(dims, keepdim=True).clamp(min=1e-6)
    return guided * (strength * ratio + (1 - strength))


def weight(weighting: str, alphas_cumprod_t: Tensor) -> Tensor:
    """w(t) as (B, 1, 1, 1).

    sigma2:       sigma^2 = 1 - abar            Poole et al. 2022, Sec. 3 ("sds" in threestudio)
    uniform:      1                             found similar there; CSD, SJC
    alpha_sigma2: sqrt(abar) (1 - abar)         Latent-NeRF; "fantasia3d" in threestudio
    clean:        sigma                         the gradient alpha (x - x0_hat) of a clean-image loss: from
                  z = alpha x + sigma eps = alpha x0_hat + sigma eps_hat follows
                  eps_hat - eps = (alpha / sigma) (x - x0_hat)
    reconstruction: sigma / alpha   by the same token the gradient x - x0_hat: as strong at high noise, where the form
                  is decided, as at low (Shi et al. 2023, MVDream's loss)
    """
    alpha, sigma = alpha_sigma(alphas_cumprod_t)
    match weighting:
        case "sigma2":
            return sigma**2
        case "uniform":
            return torch.ones_like(sigma)
        case "alpha_sigma2":
            return alpha * sigma**2
        case "clean":
            return sigma
        case "reconstruction":
            return sigma / alpha
    raise ValueError(f"unknown weighting {weighting!r}, expected one of {', '.join(WEIGHTINGS)}")
