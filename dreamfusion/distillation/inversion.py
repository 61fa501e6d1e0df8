"""The noisy image that a sampler would denoise into the render, for the methods without random noise."""

from torch import Tensor

from dreamfusion.diffusion.ddim import ddim_invert
from dreamfusion.diffusion.parameterization import noise_from_clean
from dreamfusion.distillation.base import Step
from dreamfusion.guidance.prior import Prior, empty_branch, guided


def inverted(prior: Prior, step: Step, timestep: Tensor, scale: float | None, stride: float, eta: float) -> Tensor:
    """z at `timestep` (B,) by DDIM inversion of the render.

    Args:
        prior: estimates the clean image along the way.
        step: its latents, (B, C, h, w), are inverted.
        timestep: where the inversion ends.
        scale: guidance scale of the inversion; None: with the empty text alone.
        stride: fraction of T between two estimates.
        eta: share of random noise, 0 to 1.
    """
    abar = prior.alphas_cumprod

    def predict_noise(noisy: Tensor, at: Tensor) -> Tensor:
        if scale is None:
            (clean,) = prior.denoise(noisy, at, [empty_branch(step.conditioning)])
        else:
            clean, _ = guided(prior, noisy, at, step.conditioning, scale)
        return noise_from_clean(clean, noisy, abar[at])

    jump = max(round(stride * len(abar)), 1)
    return ddim_invert(predict_noise, step.latents.detach(), timestep, abar, jump, eta, step.generator)
