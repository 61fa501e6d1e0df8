"""Colours that change with the direction: real spherical harmonics of degree 1 (Kerbl et al. 2023).

The harmonics of degree 1 are the linear functions of the unit direction d. A channel has the colour c + v . d, with
the mean over all directions c. It stays in [0, 1] for each d exactly if |v| <= min(c, 1 - c), and with this bound
nothing needs to be clamped: the colour keeps a gradient, and a viewer that clamps shows the same.
"""

from torch import Tensor, minimum, stack
from torch.nn.functional import normalize

from dreamfusion.types import Gaussians

DEGREES = (0, 1)


def bounded(coefficients: Tensor, colors: Tensor) -> Tensor:
    """The vectors v = min(c, 1 - c) k / sqrt(1 + |k|^2) of unbounded coefficients k.

    Args:
        coefficients: (N, 3, 3) k of each channel along x, y, z.
        colors: (N, 3) c, in [0, 1].

    Returns:
        (N, 3, 3) by channel, at most min(c, 1 - c) long.
    """
    x, y, z = _planes(coefficients)
    share = minimum(colors, 1 - colors) / (1 + x * x + y * y + z * z).sqrt()
    return stack([share * x, share * y, share * z]).permute(1, 2, 0)


def colors_along(gaussians: Gaussians, offsets: Tensor) -> Tensor:
    """Colours (B, N, 3) of Gaussians that are `offsets` (B, N, 3) of any length away from B cameras."""
    if gaussians.directional is None:
        return gaussians.colors.expand(len(offsets), -1, -1)
    x, y, z = _planes(normalize(offsets, dim=-1))
    by_x, by_y, by_z = _planes(gaussians.directional)
    return gaussians.colors + x[..., None] * by_x + y[..., None] * by_y + z[..., None] * by_z


def _planes(vectors: Tensor) -> tuple[Tensor, ...]:
    """The components of vectors (..., 3), each contiguous: torch is slow on axes of three elements."""
    return vectors.movedim(-1, 0).contiguous().unbind()
