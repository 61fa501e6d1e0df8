"""Sample images from a prior with DDIM (Song et al. 2021, Eq. 12 with eta = 0), for `mode=sample`."""

import torch
from torch import Tensor

from dreamfusion.diffusion.ddim import ddim_sample
from dreamfusion.guidance.prior import Prior, guided
from dreamfusion.types import Conditioning


@torch.no_grad()
def sample_images(prior: Prior, conditioning: Conditioning, start: Tensor, scale: float, steps: int) -> Tensor:
    """Sample images (B, 3, r, r) in [0, 1] for B conditions, on the prior's device.

    Args:
        prior: any prior.
        conditioning: conditions of B views.
        start: pure noise of the prior's latent shape, see `start_noise`, (B, C, h, w).
        scale: guidance scale, see `guide`.
        steps: number of network evaluations, each on 2B images (B images at scale 1).
    """

    def predict_clean(noisy: Tensor, timestep: Tensor) -> Tensor:
        return guided(prior, noisy, timestep, conditioning, scale)[0]

    return prior.decode(ddim_sample(predict_clean, start, prior.alphas_cumprod, steps, clip=prior.pixel_space))


@torch.no_grad()
def start_noise(prior: Prior, count: int, generator: torch.Generator) -> Tensor:
    """Draw standard Gaussian noise (count, C, h, w) in the prior's space, on its device."""
    blank = torch.zeros(1, 3, prior.resolution, prior.resolution, device=prior.alphas_cumprod.device)
    shape = prior.encode_image(blank).shape[1:]
    return torch.randn(count, *shape, generator=generator).to(blank.device)
