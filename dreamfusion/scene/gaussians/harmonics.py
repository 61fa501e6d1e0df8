"""Colours that change with the direction: real spherical harmonics of degree 1 (Kerbl et al. 2023).

The harmonics of degree 1 are the linear functions of the unit direction d. A channel has the colour c + v . d, with
the mean over all directions c. It stays in [0, 1] for each d exactly if |v| <= min(c, 1 - c), and with this bound
nothing needs to be clamped: the colour keeps a gradient, and a viewer that clamps shows the same.
"""

from torch import Tensor, minimum
from torch.nn.functional import normalize

from dreamfusion.types import Gaussians

DEGREES = (0, 1)


def bounded(coefficients: Tensor, colors: Tensor) -> Tensor:
    """The vectors v = min(c, 1 - c) k / sqrt(1 + |k|^2) of unbounded coefficients k.

    Args:
        coefficients: (N, 3, 3) k of each channel along x, y, z.
        colors: (N, 3) c, in [0, 1].

    Returns:
        (N, 3, 3) by channel, shorter than min(c, 1 - c).
    """
    room = minimum(colors, 1 - colors)[..., None]
    return room * coefficients / (1 + coefficients.square().sum(-1, keepdim=True)).sqrt()


def colors_along(gaussians: Gaussians, offsets: Tensor) -> Tensor:
    """Colours (B, N, 3) of Gaussians that are `offsets` (B, N, 3) of any length away from B cameras."""
    if gaussians.directional is None:
        return gaussians.colors.expand(len(offsets), -1, -1)
    x, y, z = normalize(offsets, dim=-1)[..., None].unbind(2)  # (B, N, 1) each
    by_x, by_y, by_z = gaussians.directional.unbind(-1)  # (N, 3) each
    return gaussians.colors + x * by_x + y * by_y + z * by_z
