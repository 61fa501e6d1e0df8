"""Torch reference of `splat`, on every device: each tile of the image with the Gaussians that reach it."""

import torch
from torch import Tensor

from dreamfusion.ops.splat import FAINTEST, MOST, TILE, Screen, extent


def splat(screen: Screen, opacities: Tensor, features: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """See `dreamfusion.ops.splat.splat`; opacities (B, N) are those of the views."""
    ones = torch.cat([features, torch.ones_like(features[..., :1])], dim=-1)
    views = []
    for view in range(len(features)):
        order = screen.depths[view].argsort(stable=True)
        order = order[(screen.depths[view] > 0)[order]]
        given = (screen.means[view][order], screen.conics[view][order], opacities[view][order], ones[view][order])
        rows = [
            torch.cat([_tile(*given, top, left, height, width) for left in range(0, width, TILE)], dim=1)
            for top in range(0, height, TILE)
        ]
        views.append(torch.cat(rows))
    image = torch.stack(views)
    return image[..., :-1], image[..., -1]


def _tile(
    means: Tensor, conics: Tensor, opacities: Tensor, features: Tensor, top: int, left: int, height: int, width: int
) -> Tensor:
    """(h, w, C) of the tile whose first pixel is (`top`, `left`); the Gaussians are sorted."""
    rows = torch.arange(top, min(top + TILE, height), device=means.device) + 0.5
    columns = torch.arange(left, min(left + TILE, width), device=means.device) + 0.5
    reached = _reached(means, conics, opacities, columns, rows)
    means, conics, opacities, features = (part[reached] for part in (means, conics, opacities, features))
    across = columns[None, None] - means[:, 0, None, None]  # (n, 1, w)
    down = rows[None, :, None] - means[:, 1, None, None]  # (n, h, 1)
    a, b, c = conics[:, :, None, None].unbind(1)
    alpha = opacities[:, None, None] * torch.exp(-(a * across**2 + c * down**2) / 2 - b * across * down)
    alpha = torch.where(alpha < FAINTEST, 0.0, alpha.clamp(max=MOST))  # (n, h, w)
    passed = torch.log1p(-alpha)
    weights = alpha * torch.exp(passed.cumsum(0) - passed)
    with torch.autocast(weights.device.type, enabled=False):
        return torch.einsum("nhw,nc->hwc", weights, features)


@torch.no_grad()
def _reached(means: Tensor, conics: Tensor, opacities: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """Indices of the Gaussians whose bounding box has a pixel of the tile."""
    level = 2 * (opacities.clamp(min=1e-12) / FAINTEST).log()
    half = level.clamp(min=0).sqrt()[:, None] * extent(conics) + 1
    low, high = means - half, means + half
    across = (high[:, 0] >= columns[0]) & (low[:, 0] <= columns[-1])
    return (across & (high[:, 1] >= rows[0]) & (low[:, 1] <= rows[-1]) & (level > 0)).nonzero()[:, 0]
