"""Errors of the pocket prior's network on a batch, by noise level: its losses and its validation."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from dreamfusion.diffusion.parameterization import alpha_sigma
from dreamfusion.pocket.data.batches import Batch
from dreamfusion.pocket.model.denoiser import PocketModel
from dreamfusion.pocket.model.proxy_render import ProxyRender
from dreamfusion.types import TextEmbedding

NOISE_LEVELS = (200, 450, 700, 900)  # timesteps of 1000 at which the validation loss is computed


@torch.no_grad()
def errors_by_level(
    model: PocketModel, text: TextEmbedding, batch: Batch, given_subject: bool = True
) -> tuple[dict[int, Tensor], Tensor]:
    """Squared error (B,) of the clean estimate at each of NOISE_LEVELS, with fixed noise, and of the proxy render.

    The latter is zero for networks without a feature volume. `given_subject` renders the model that each image shows,
    instead of the one its caption names.
    """
    errors: dict[int, list[Tensor]] = {level: [] for level in NOISE_LEVELS}
    proxy_errors = []
    for part in torch.arange(len(batch.images), device=batch.images.device).split(32):
        clean, camera = batch.images[part], batch.camera[part]
        proxy = None
        if model.feature_volume is not None:
            states, mask = text[part].states, text[part].mask
            shown = batch.subject[part] if given_subject else None
            proxy = model.render_proxy(states, mask, camera, shown, size=clean.shape[-1])
            proxy_errors.append(proxy_error(proxy, batch.proxy_targets[part, :4]))
        for level, found in errors.items():
            generator = torch.Generator().manual_seed(level)
            noise = torch.randn(batch.images.shape, generator=generator).to(clean.device)[part]
            timestep = torch.full((len(part),), level, device=clean.device)
            found.append(denoising_error(model, clean, text[part], camera, timestep, noise, proxy))
    zeros = [batch.images.new_zeros(len(batch.images))]
    return {level: torch.cat(found) for level, found in errors.items()}, torch.cat(proxy_errors or zeros)


def proxy_error(proxy: ProxyRender, rgba: Tensor) -> Tensor:
    """Mean squared error (B,) of albedo and opacity, scaled to pixels in [-1, 1]."""
    return 4 * (proxy.rgba.float() - rgba).square().mean(dim=(1, 2, 3))


def denoising_error(
    model: PocketModel,
    clean: Tensor,
    text: TextEmbedding,
    camera: Tensor,
    timestep: Tensor,
    noise: Tensor,
    proxy: ProxyRender | None = None,
) -> Tensor:
    """Mean squared error (B,) of the clean estimate."""
    alpha, sigma = alpha_sigma(model.alphas_cumprod[timestep])
    noisy = alpha * clean + sigma * noise
    with fast_attention():
        predicted = model(noisy, timestep, text.states, text.mask, camera, proxy)
    return (predicted.float() - clean).square().mean(dim=(1, 2, 3))


def fast_attention() -> Any:
    """Use plain matrix products on the CPU, where the fused attention's bf16 backward pass takes 43 % of a step."""
    on_cpu = torch.is_autocast_enabled("cpu")
    return sdpa_kernel(SDPBackend.MATH) if on_cpu else nullcontext()
