"""Deterministic sampling of a diffusion model (DDIM, Song et al. 2021, Eq. 12 with eta = 0)."""

from collections.abc import Callable

import torch
from torch import Tensor


@torch.no_grad()
def ddim_sample(
    predict_clean: Callable[[Tensor, Tensor], Tensor],
    start: Tensor,
    alphas_cumprod: Tensor,
    steps: int,
    clip: bool,
) -> Tensor:
    """Sample clean latents from pure noise `start` (B, C, h, w) in `steps` evenly spaced steps.

    `predict_clean(noisy, timestep (B,))` returns the (guided) denoised estimate x0_hat; `clip` clamps x0_hat to
    [-1, 1], for pixel-space priors only.
    """
    trained = alphas_cumprod.shape[0]
    timesteps = torch.linspace(trained - 1, 0, steps + 1).round().long()
    noisy = start
    for now, then in zip(timesteps[:-1].tolist(), timesteps[1:].tolist(), strict=True):
        alpha, sigma = alphas_cumprod[now].sqrt(), (1 - alphas_cumprod[now]).sqrt()
        clean = predict_clean(noisy, torch.full((start.shape[0],), now, device=start.device))
        if clip:
            clean = clean.clamp(-1, 1)
        noise = (noisy - alpha * clean) / sigma
        noisy = alphas_cumprod[then].sqrt() * clean + (1 - alphas_cumprod[then]).sqrt() * noise
    return clean
