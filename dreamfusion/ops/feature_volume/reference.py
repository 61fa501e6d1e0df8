"""Torch reference of `render_feature_volume`: any device, any float type, differentiable to any order."""

import torch
from torch import Tensor
from torch.nn import functional as F


def render_feature_volume(volume: Tensor, points: Tensor, heads: int) -> Tensor:
    """(G, N, N, N, H (1 + F)), (G, R, D, 3) -> (G, R, H (2 + F))."""
    g, r, d = points.shape[:3]
    read = F.grid_sample(
        volume.permute(0, 4, 1, 2, 3), points[:, :, :, None], padding_mode="border", align_corners=False
    )
    width = volume.shape[4] // heads
    density, features = read.reshape(g, heads, width, r, d).split([1, width - 1], dim=2)
    inside = (points.abs() <= 1).all(-1)[:, None, None]  # (G, 1, 1, R, D)
    passed = torch.where(inside, torch.exp(-F.softplus(density)), 1.0)
    before = torch.cumprod(torch.cat([torch.ones_like(passed[..., :1]), passed[..., :-1]], -1), -1)
    weight = before * (1 - passed)
    depth = (torch.arange(d, device=volume.device, dtype=volume.dtype) + 0.5) / d
    values = torch.cat([torch.ones_like(density), depth.expand_as(density), features], dim=2)
    return (weight * values).sum(-1).permute(0, 3, 1, 2).reshape(g, r, heads * (1 + width))
