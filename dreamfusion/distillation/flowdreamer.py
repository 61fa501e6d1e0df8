"""FlowDreamer's unique couple matching (Li et al. 2024, arXiv 2408.05008): SDS with the noise coupled to the render.

On a rectified flow each image has one noise, at the other end of its path. The render is inverted to that end, t = T,
and z lies on the straight line between both; with the weighting `flow` the gradient is v_hat - (eps - x).
"""

from typing import Any

import torch
from torch import Tensor

from dreamfusion.diffusion.parameterization import alpha_sigma, noise_from_clean
from dreamfusion.distillation.base import Step
from dreamfusion.distillation.inversion import inverted
from dreamfusion.distillation.sds import SDS
from dreamfusion.schedule import ScheduleLike, check_share, schedule


class FlowDreamer(SDS):
    """`SDS` whose noise is the end of the render's own path."""

    def __init__(self, inversion_scale: ScheduleLike, stride: float, random_until: float, **settings: Any) -> None:
        """Check the settings.

        Args:
            inversion_scale: guidance scale of the inversion.
            stride: of the inversion, fraction of T.
            random_until: progress of the run before which the noise is random, as in `SDS`.
            settings: see `Distillation`.

        Raises:
            ValueError: a share is none.
        """
        super().__init__(**settings)
        check_share("distillation.stride", stride, 0.3334, positive=True)
        check_share("distillation.random_until", random_until, 0.18)
        self.inversion_scale, self.stride, self.random_until = schedule(inversion_scale), stride, random_until

    def perturb(self, step: Step) -> tuple[Tensor, Tensor]:
        """z between the render and its noise, and the render."""
        if step.progress < self.random_until:
            return super().perturb(step)
        abar, latents = self.prior.alphas_cumprod, step.latents.detach()
        last = torch.full_like(step.timestep, len(abar) - 1)
        end = inverted(self.prior, step, last, self.inversion_scale(step.progress), self.stride, 0.0)
        noise = noise_from_clean(latents, end, abar[last])
        alpha, sigma = alpha_sigma(step.abar)
        return alpha * latents + sigma * noise, latents
