"""The noisy image that a sampler would denoise into the render, for the methods without random noise."""

from torch import Tensor

from dreamfusion.diffusion.ddim import ddim_invert
from dreamfusion.distillation.base import Step
from dreamfusion.guidance.prior import Prior, guided


def inverted(prior: Prior, step: Step, timestep: Tensor, scale: float, stride: float, eta: float = 0.0) -> Tensor:
    """z at `timestep` (B,) by DDIM inversion of the render.

    Args:
        prior: predicts the noise along the way.
        step: its latents, (B, C, h, w), are inverted.
        timestep: where the inversion ends.
        scale: guidance scale of the inversion.
        stride: fraction of T between two predictions.
        eta: share of random noise, 0 to 1.
    """
    abar = prior.alphas_cumprod

    def predict(noisy: Tensor, at: Tensor) -> Tensor:
        return guided(prior, noisy, at, step.conditioning, scale)[0]

    jump = max(round(stride * len(abar)), 1)
    return ddim_invert(predict, step.latents.detach(), timestep, abar, jump, eta, step.generator)
