"""DDIM (Song et al. 2021): its step between two noise levels, sampling, and inversion.

Letters as in `parameterization.py`; z_s and z_t are noisy images at timesteps s and t.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from dreamfusion.diffusion.parameterization import alpha_sigma, clean_from_noise


def ddim_step(clean: Tensor, noise: Tensor, abar_next: Tensor) -> Tensor:
    """z (B, C, h, w) at the level `abar_next` (B,): alpha' x0_hat + sigma' eps (Eq. 12, eta = 0).

    It denoises where abar_next is above the level of x0_hat and eps, and inverts where it is below.
    """
    alpha, sigma = alpha_sigma(abar_next)
    return alpha * clean + sigma * noise


@torch.no_grad()
def ddim_invert(
    predict_noise: Callable[[Tensor, Tensor], Tensor],
    clean: Tensor,
    timestep: Tensor,
    alphas_cumprod: Tensor,
    stride: int,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The noisy images z_t at `timestep` (B,) whose deterministic samples are about `clean` (B, C, h, w).

    `clean` counts as z at timestep 0. Steps of `stride` timesteps, the last one shorter. The noise of a step is
    predicted at the timestep where it ends; the published codes of SDI and LucidDreamer predict where it begins. At
    timestep 0, the noise of a network that predicts the image is its error over sigma, 8 instead of 1 for the pocket
    prior. `eta` > 0 adds noise of eta times the deviation of the DDPM posterior after each step (Lukoianov et al. 2024,
    SDI).
    """
    noisy, now = clean, torch.zeros_like(timestep)
    for step in range(1, -(-int(timestep.max()) // stride) + 1):
        then = torch.full_like(timestep, step * stride).minimum(timestep)  # images that arrived stay
        abar, abar_next = alphas_cumprod[now], alphas_cumprod[then]
        noise = predict_noise(noisy, then)
        noisy = ddim_step(clean_from_noise(noise, noisy, abar), noise, abar_next)
        if eta > 0:
            assert generator is not None
            added = torch.randn(clean.shape, generator=generator, device=generator.device).to(clean.device)
            variance = (1 - abar) / (1 - abar_next) * (1 - abar_next / abar)
            noisy = noisy + eta * variance.sqrt()[:, None, None, None] * added
        now = then
    return noisy


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
