"""Score distillation via inversion (Lukoianov et al. 2024, arXiv 2405.15891, Eq. 13 and Alg. 1).

The noise is the one that DDIM would turn into the render: z_t comes from the render by inversion, with a negative
guidance scale. The direction is that of `SDS`, (alpha / sigma) (x - x0_hat), where x0_hat may take several steps.
"""

from dataclasses import replace
from typing import Any

from torch import Tensor

from dreamfusion.diffusion.ddim import ddim_step
from dreamfusion.diffusion.parameterization import noise_from_clean
from dreamfusion.distillation.base import Step
from dreamfusion.distillation.inversion import inverted
from dreamfusion.distillation.sds import SDS
from dreamfusion.schedule import ScheduleLike, check_share, schedule


class SDI(SDS):
    """`SDS` whose noise is the render's own, with a deterministic estimate of the clean image."""

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

        Raises:
            ValueError: `steps` is below 1, or a share is none.
        """
        super().__init__(**settings)
        check_share("distillation.stride", stride, 0.1, positive=True)
        check_share("distillation.eta", eta, 0.3)
        if steps < 1:
            raise ValueError(f"distillation.steps is {steps}; it must be 1 or more")
        self.inversion_scale = None if inversion_scale is None else schedule(inversion_scale)
        self.stride, self.eta, self.steps = stride, eta, steps

    def perturb(self, step: Step) -> tuple[Tensor, Tensor]:
        """z_t by inversion, and the render."""
        own, progress = self.inversion_scale, step.progress
        scale = -self.guidance_scale(progress) if own is None else own(progress)
        noisy = inverted(self.prior, step, step.timestep, scale, self.stride, self.eta)
        return noisy, step.latents.detach()

    def guided(self, step: Step, noisy: Tensor) -> Tensor:
        """x0_hat at the end of the sampler."""
        for left in range(self.steps, 1, -1):
            clean = super().guided(step, noisy)
            noise = noise_from_clean(clean, noisy, step.abar)
            timestep = step.timestep * (left - 1) // left
            step = replace(step, timestep=timestep, abar=self.prior.alphas_cumprod[timestep])
            noisy = ddim_step(clean, noise, step.abar)
        return super().guided(step, noisy)
