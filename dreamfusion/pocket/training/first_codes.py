"""First codes of the feature volume: coarse volumes of density and colour, fitted to the renders of each model.

A decoder that begins from them only has to learn how a coarse volume is refined, which all models have in common. From
random codes it first has to find out what the codes mean, for which it needs several times as many images.
"""

import logging

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dreamfusion.ops.feature_volume import render_feature_volume
from dreamfusion.pocket.data.batches import RenderBatches
from dreamfusion.pocket.model.denoiser import camera_features
from dreamfusion.pocket.model.rays import ray_points

log = logging.getLogger(__name__)
STEPS = 100  # of Adam, for each group of models
MODELS = 32  # fitted together
VIEWS = 8  # of each model in a step
LEARNING_RATE = 0.2  # falls to zero
EMPTY, GREY = -2.0, 0.5  # initial density before the softplus, and colour
SPARSITY = 1e-4  # weight of the mean optical depth of a voxel: what no ray decides stays empty


def fit_codes(data: RenderBatches, side: int, device: torch.device | str = "cpu") -> Tensor:
    """Codes (M, 4, side, side, side) of the models of `data` in their order: density, then colour where it is dense.

    Values are of the order of one and roughly centred on zero, computed on `device`. Held-out views are not used.
    """
    rng = np.random.default_rng((data.seed, 2**41))
    groups = np.array_split(data.models, max(len(data.models) // MODELS, 1))
    volumes: list[Tensor] = []
    for models in groups:
        volumes.append(_fitted(data, models, side, rng, torch.device(device)))
        log.info("fitted the first codes of %d of %d models", sum(map(len, volumes)), len(data.models))
    volume = torch.cat(volumes)
    density, color = volume.split([1, 3], dim=-1)
    opacity = -torch.expm1(-2 * F.softplus(density))
    codes = torch.cat([density.clamp(-6, 4) / 3 + 0.5, 3 * opacity * (color - GREY).clamp(-1, 1)], dim=-1)
    return codes.permute(0, 4, 1, 2, 3).contiguous()


def _fitted(
    data: RenderBatches, models: np.ndarray, side: int, rng: np.random.Generator, device: torch.device
) -> Tensor:
    """Volumes (G, side, side, side, 4) of density before the softplus and colour, for images of side x side pixels."""
    volume = torch.full((len(models), side, side, side, 4), GREY, device=device)
    volume[..., 0] = EMPTY
    volume.requires_grad_()
    wanted = _targets(data, models, side).to(device)
    angles = (data.renders.azimuth, data.renders.elevation, data.renders.distance)
    optimizer = torch.optim.Adam([volume], lr=LEARNING_RATE)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / STEPS)
        views = rng.integers(0, wanted.shape[1], (len(models), VIEWS))
        drawn = (torch.from_numpy(angle[models[:, None], views].astype(np.float32)).flatten() for angle in angles)
        camera = camera_features(*drawn).to(device)
        points = ray_points(camera, side).view(len(models), -1, side, 3)
        opacity, _, color = render_feature_volume(volume, points, heads=1).split([1, 1, 3], dim=-1)
        target = wanted[torch.arange(len(models))[:, None], torch.from_numpy(views)].flatten(1, 2)
        error = (torch.cat([color, opacity], dim=-1) - target).square().mean()
        optimizer.zero_grad()
        (error + SPARSITY * F.softplus(volume[..., 0]).mean()).backward()
        optimizer.step()
    return volume.detach().cpu()


def _targets(data: RenderBatches, models: np.ndarray, side: int) -> Tensor:
    """All training views, (G, V, side^2, 4): albedo times opacity, and opacity, in [0, 1]."""
    small, renders = [], data.renders
    for model in models:
        views = model, slice(0, renders.views - data.held_out)
        albedo, alpha = (torch.from_numpy(images[views]).float() / 255 for images in (renders.albedo, renders.alpha))
        images = torch.cat([albedo * alpha[..., None], alpha[..., None]], dim=-1).permute(0, 3, 1, 2)
        small.append(F.adaptive_avg_pool2d(images, side).flatten(2).transpose(1, 2))
    return torch.stack(small)
