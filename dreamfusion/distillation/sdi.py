"""Score distillation via inversion (Lukoianov et al. 2024, arXiv 2405.15891, Eq. 13 and Alg. 1).

The noise is the one that DDIM would turn into the render: z_t comes from the render by inversion, with a negative
guidance scale. direction = (alpha / sigma) (x - x0_hat), which is eps_hat - eps for a single step of denoising.
"""

from dataclasses import replace
from typing import Any

from torch import Tensor

from dreamfusion.diffusion.ddim import ddim_step
from dreamfusion.diffusion.parameterization import alpha_sigma
from dreamfusion.distillation.base import Distillation, Step
from dreamfusion.distillation.inversion import inverted
from dreamfusion.schedule import ScheduleLike, schedule


class SDI(Distillation):
    """A deterministic denoised estimate of the render; with `steps` > 1 by a multi-step sampler."""

    recommended_scale = "sample_scale"

    def __init__(
        self, inversion_scale: ScheduleLike | None, stride: float, eta: float, steps: int, **settings: Any
    ) -> None:
        """Check the settings.

        Args:
            inversion_scale: guidance scale of the inversion; None: minus the guidance scale, as in the paper.
            stride: of the inversion, fraction of T.
            eta: share of random noise in the inversion, 0 to 1.
            steps: of the sampler that gives x0_hat, 1 as in the paper.
            settings: see `Distillation`.

        Raises:
            ValueError: `steps` is below 1.
        """
        super().__init__(**settings)
        if steps < 1:
            raise ValueError(f"distillation.steps is {steps}; it must be 1 or more")
        self.inversion_scale = None if inversion_scale is None else schedule(inversion_scale)
        self.stride, self.eta, self.steps = stride, eta, steps

    def perturb(self, step: Step) -> tuple[Tensor, Tensor]:
        """z_t by inversion, and the noise that leads from the render to it."""
        own, progress = self.inversion_scale, step.progress
        scale = -self.guidance_scale(progress) if own is None else own(progress)
        noisy = inverted(self.prior, step, step.timestep, scale, self.stride, self.eta)
        alpha, sigma = alpha_sigma(step.abar)
        return noisy, (noisy - alpha * step.latents.detach()) / sigma

    def direction(self, step: Step, noisy: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """See `Distillation.direction`."""
        at = step
        for left in range(self.steps, 1, -1):
            noise_hat, _ = self.guided(at, noisy)
            then = at.timestep * (left - 1) // left
            abar = self.prior.alphas_cumprod[then]
            noisy = ddim_step(noisy, noise_hat, at.abar, abar)
            at = replace(at, timestep=then, abar=abar)
        _, denoised = self.guided(at, noisy)
        alpha, sigma = alpha_sigma(step.abar)
        return (alpha / sigma) * (step.latents.detach() - denoised), denoised
