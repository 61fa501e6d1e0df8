"""Noise-free score distillation (Katzir et al. 2024, arXiv 2310.17590, Eq. 8 and 9).

direction = delta_D + scale (eps_text - eps_empty), where delta_D points to the clean images without the network's
residual noise: eps_empty at low noise, and eps_empty - eps_negative above.
"""

from typing import Any

import torch
from torch import Tensor

from dreamfusion.diffusion.classifier_free import guide
from dreamfusion.diffusion.parameterization import noise_difference, noise_from_clean
from dreamfusion.distillation.base import Distillation, Step
from dreamfusion.guidance.prior import denoise_steered, empty_branch, null_branch, text_branch


class NFSD(Distillation):
    """Needs a negative prompt that describes bad images, see conf/distillation/nfsd.yaml."""

    recommended_scale = "sample_scale"

    def __init__(self, low_noise: float, **settings: Any) -> None:
        """`low_noise` is the fraction of T below which delta_D is eps_empty."""
        super().__init__(**settings)
        self.low_noise = low_noise

    def direction(self, step: Step, noisy: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """See `Distillation.direction`."""
        make = (text_branch, empty_branch, null_branch)
        branches = [branch(step.conditioning) for branch in make]
        text, empty, negative = denoise_steered(self.prior, noisy, step.timestep, step.conditioning, branches)
        low = (step.timestep < self.low_noise * len(self.prior.alphas_cumprod))[:, None, None, None]
        without = noise_from_clean(empty, noisy, step.abar)
        domain = torch.where(low, without, noise_difference(empty, negative, step.abar))
        scale = self.guidance_scale(step.progress)
        return domain + scale * noise_difference(text, empty, step.abar), guide(text, empty, scale)
