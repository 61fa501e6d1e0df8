"""Interval score matching (Liang et al. 2024, LucidDreamer, arXiv 2311.11284, Eq. 16 and Alg. 1).

direction = eps_hat(z_t; y, t) - eps(z_s; empty, s) with s = t - interval: z_s comes from the render by DDIM inversion
with the empty text, and z_t from z_s by one more step, so that the direction has no random noise.
"""

from typing import Any

from torch import Tensor

from dreamfusion.diffusion.ddim import ddim_invert, ddim_step
from dreamfusion.distillation.base import Distillation, Step
from dreamfusion.guidance.prior import empty_branch
from dreamfusion.schedule import ScheduleLike, schedule


class ISM(Distillation):
    """The difference between the predictions at both ends of an interval of the sampler."""

    recommended_scale = "sample_scale"

    def __init__(self, interval: ScheduleLike, stride: float, **settings: Any) -> None:
        """`interval`, a number or a schedule, and `stride` of the inversion are fractions of T."""
        super().__init__(**settings)
        self.interval, self.stride = schedule(interval), stride

    def perturb(self, step: Step) -> tuple[Tensor, Tensor]:
        """z_t, and eps(z_s; empty, s) in place of the noise."""
        abar, empty = self.prior.alphas_cumprod, [empty_branch(step.conditioning)]

        def predict(noisy: Tensor, timestep: Tensor) -> Tensor:
            return self.prior.predict(noisy, timestep, empty)[0]

        start = (step.timestep - round(self.interval(step.progress) * len(abar))).clamp(min=0)
        stride = max(round(self.stride * len(abar)), 1)
        noisy = ddim_invert(predict, step.latents.detach(), start, abar, stride)
        noise = predict(noisy, start)
        return ddim_step(noisy, noise, abar[start], step.abar), noise

    def direction(self, step: Step, noisy: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """See `Distillation.direction`."""
        noise_hat, denoised = self.guided(step, noisy)
        return noise_hat - noise, denoised
