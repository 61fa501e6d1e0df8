"""Weightings w(t) of the distillation gradient, and of the loss that trains an adapter."""

import torch
from torch import Tensor

from dreamfusion.diffusion.parameterization import alpha_sigma

WEIGHTINGS = ("sigma2", "uniform", "alpha_sigma2", "clean", "reconstruction", "flow")


def weight(weighting: str, alphas_cumprod_t: Tensor) -> Tensor:
    """w(t) as (B, 1, 1, 1).

    sigma2:       sigma^2 = 1 - abar            Poole et al. 2022, Sec. 3 ("sds" in threestudio)
    uniform:      1                             similar results in Poole et al. 2022; CSD, SJC
    alpha_sigma2: sqrt(abar) (1 - abar)         Latent-NeRF; "fantasia3d" in threestudio
    clean:        sigma                         the SDS gradient is then alpha (x - x0_hat), because
                  eps_hat - eps = (alpha / sigma) (x - x0_hat)
    reconstruction: sigma / alpha               the SDS gradient is then x - x0_hat, equally strong at high noise, which
                  determines the shape, and at low noise (Shi et al. 2023, MVDream's loss)
    flow:         (alpha + sigma) / alpha = 1 / (1 - s), s the time of a rectified flow: the SDS gradient is then
                  v_hat - v with v = eps - x, the loss on velocities (Yang et al. 2025, RFDS)
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
        case "flow":
            return (alpha + sigma) / alpha
    raise ValueError(f"unknown weighting {weighting!r}, expected one of {', '.join(WEIGHTINGS)}")


def min_snr(alphas_cumprod_t: Tensor, limit: float = 5.0) -> Tensor:
    """Weight (B, 1, 1, 1) of the squared error of x0_hat: min(SNR, limit), SNR = (alpha / sigma)^2.

    Hang et al. 2023 (Min-SNR), for networks that predict x0; the limit is their gamma.
    """
    alpha, sigma = alpha_sigma(alphas_cumprod_t)
    return (alpha / sigma).square().clamp(max=limit)
