"""Weightings w(t) of the distillation gradient over the noise level."""

from __future__ import annotations

import torch
from torch import Tensor

from dreamfusion.diffusion.parameterization import alpha_sigma

WEIGHTINGS = ("sigma2", "uniform", "alpha_sigma2", "clean", "reconstruction")


def weight(weighting: str, alphas_cumprod_t: Tensor) -> Tensor:
    """w(t) as (B, 1, 1, 1).

    sigma2:       sigma^2 = 1 - abar            Poole et al. 2022, Sec. 3 ("sds" in threestudio)
    uniform:      1                             found similar there; CSD, SJC
    alpha_sigma2: sqrt(abar) (1 - abar)         Latent-NeRF; "fantasia3d" in threestudio
    clean:        sigma                         the gradient alpha (x - x0_hat) of a clean-image loss: from
                  z = alpha x + sigma eps = alpha x0_hat + sigma eps_hat follows
                  eps_hat - eps = (alpha / sigma) (x - x0_hat)
    reconstruction: sigma / alpha   by the same token the gradient x - x0_hat: as strong at high noise, where the form
                  is decided, as at low (Shi et al. 2023, MVDream's loss)
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
    raise ValueError(f"unknown weighting {weighting!r}, expected one of {', '.join(WEIGHTINGS)}")
