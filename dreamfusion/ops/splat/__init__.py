"""Differentiable rendering of 3D Gaussians: projected to the screen, sorted by depth, blended front to back.

Kerbl et al. 2023 (3D Gaussian splatting, arXiv 2308.04079); the projection is that of EWA splatting (Zwicker et al.
2001). Letters: B views, N Gaussians, H W pixels, C channels.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from dreamfusion.ops.backend import implementation
from dreamfusion.types import check_shape

FAINTEST = 1 / 255  # alpha below which a Gaussian does not reach a pixel
MOST = 0.99  # largest alpha, so that the gradient of what is behind stays finite
TILE = 16  # pixels a side
ROUNDING = 2.5e-7  # of a c - b^2 in float32, as a share of a c, which may be more than a needle's determinant


class Screen(NamedTuple):
    """N Gaussians as B cameras see them."""

    means: Tensor  # (B, N, 2) column and row; the centre of the first pixel is (0.5, 0.5)
    conics: Tensor  # (B, N, 3) a, b, c of the inverse covariance [[a, b], [b, c]], 1 / pixels^2
    shares: Tensor  # (B, N) of the opacity, at most 1: what is thinner than a pixel is spread over it
    depths: Tensor  # (B, N) along the camera's axis; 0: too near or behind, and not drawn


def extent(conics: Tensor) -> Tensor:
    """Half the width and height, (..., 2) pixels, of the ellipses a x^2 + 2 b x y + c y^2 = 1 of conics (..., 3).

    At least as large as the ellipse: the determinant of a needle is lost in its rounding.
    """
    a, b, c = conics.unbind(-1)
    both = a * c
    determinant = (both - b * b - ROUNDING * both).maximum(ROUNDING * both)
    return (torch.stack([c, a], dim=-1) / determinant[..., None]).sqrt()


def splat(
    screen: Screen, opacities: Tensor, features: Tensor, height: int, width: int, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """Blend Gaussians front to back: sum_i T_i alpha_i f_i with T_i = prod_{j<i} (1 - alpha_j), nearest first.

    At a pixel centre d away from its mean a Gaussian has alpha = min(0.99, share opacity exp(-(a dx^2 + c dy^2) / 2 -
    b dx dy)), or none where this is below 1 / 255. A kernel may leave out what has T_i < 1e-4.

    Args:
        screen: the Gaussians on the screen; `depths` give their order, and get no gradient.
        opacities: (N,) in [0, 1].
        features: (B, N, C) such as colours and distances.
        height, width: pixels.
        backend: "torch", "numba" or "triton"; None selects the fastest available one.

    Returns:
        Sums (B, H, W, C) over black, and opacities (B, H, W); differentiable once.

    Raises:
        ValueError: if a shape does not fit.
        TypeError: if a kernel is given anything but float32.
    """
    b, n, _ = features.shape
    check_shape("splat: means", screen.means.shape, (b, n, 2))
    check_shape("splat: conics", screen.conics.shape, (b, n, 3))
    check_shape("splat: shares", screen.shares.shape, (b, n))
    check_shape("splat: depths", screen.depths.shape, (b, n))
    check_shape("splat: opacities", opacities.shape, (n,))
    chosen = implementation(__name__, "splat", features.device, backend, *screen[:3], opacities, features)
    values, opacity = chosen.splat(screen, screen.shares * opacities, features, height, width)
    return values, opacity
