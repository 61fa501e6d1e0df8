"""Interval score matching (Liang et al. 2024, LucidDreamer, arXiv 2311.11284, Eq. 16 and Alg. 1).

direction = eps_hat(z_t; y, t) - eps(z_s; empty, s) with s = t - interval: z_s comes from the render by DDIM inversion
with the empty text, and z_t from z_s by one more step, so that the direction has no random noise. As that step keeps
x0_hat(z_s) and eps(z_s), the direction is that of `SDS` with x0_hat(z_s) in place of the render.
"""

from typing import Any

from torch import Tensor

from dreamfusion.diffusion.ddim import ddim_step
from dreamfusion.diffusion.parameterization import noise_from_clean
from dreamfusion.distillation.base import Step
from dreamfusion.distillation.inversion import inverted
from dreamfusion.distillation.sds import SDS
from dreamfusion.guidance.prior import empty_branch
from dreamfusion.schedule import ScheduleLike, check_share, schedule


class ISM(SDS):
    """The difference between the predictions at both ends of an interval of the sampler."""

    recommended_scale = "sample_scale"

    def __init__(self, interval: ScheduleLike, stride: float, **settings: Any) -> None:
        """`interval`, a number or a schedule, and `stride` of the inversion are fractions of T.

        Raises:
            ValueError: one of them is not a fraction.
        """
        super().__init__(**settings)
        check_share("distillation.interval", interval, 0.05, positive=True)
        check_share("distillation.stride", stride, 0.2, positive=True)
        self.interval, self.stride = schedule(interval), stride

    def perturb(self, step: Step) -> tuple[Tensor, Tensor]:
        """z_t, and x0_hat(z_s; empty, s)."""
        abar = self.prior.alphas_cumprod
        start = (step.timestep - round(self.interval(step.progress) * len(abar))).clamp(min=0)
        noisy = inverted(self.prior, step, start, None, self.stride, 0.0)
        (clean,) = self.prior.denoise(noisy, start, [empty_branch(step.conditioning)])
        clean = self.clipped(clean)
        return ddim_step(clean, noise_from_clean(clean, noisy, abar[start]), step.abar), clean
