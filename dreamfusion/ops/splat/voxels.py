"""Sum 3D Gaussians on a lattice, for the extraction of a mesh. Numba, one thread, releases the GIL."""

import numpy as np
import torch
from torch import Tensor

from dreamfusion.ops.kernel_cache import njit
from dreamfusion.ops.splat.projection import rotation_matrices

Array = np.ndarray
REACH = 3.0  # standard deviations
LEAST = 0.5  # cells: a thinner Gaussian would pass between the lattice points
_compiled = njit(nogil=True, fastmath=True, error_model="numpy")


def voxelize(
    means: Tensor, scales: Tensor, rotations: Tensor, opacities: Tensor, colors: Tensor, radius: float, side: int
) -> Tensor:
    """Density and mean colour at the lattice points of [-radius, radius]^3.

    A Gaussian has the density whose integral along its thinnest axis gives its opacity: -log(1 - opacity) / (sqrt(2
    pi) scale) at its mean.

    Args:
        means, scales, rotations: (N, 3), (N, 3), (N, 4) as in `project_gaussians`.
        opacities: (N,) in [0, 1).
        colors: (N, 3).
        radius: half the lattice's side, scene units.
        side: lattice points along a side.

    Returns:
        (side, side, side, 4) by x, y, z: density per scene unit, colour; on the CPU.
    """
    cell = 2 * radius / (side - 1)
    widths = (scales.square() + (LEAST * cell) ** 2).sqrt()
    matrices = rotation_matrices(rotations)
    inverse = (matrices / widths.square()[:, None]) @ matrices.mT
    reach = REACH * (matrices.square() @ widths.square()[..., None])[..., 0].sqrt()
    peak = -torch.log1p(-opacities) / ((2 * torch.pi) ** 0.5 * widths.amin(1))
    low = ((means - reach + radius) / cell).ceil().clamp(0, side).int()
    high = ((means + reach + radius) / cell).floor().clamp(-1, side - 1).int()
    grid = np.zeros((side, side, side, 4), np.float32)
    given = (means, inverse, low, high, peak, colors)
    _add(*(part.detach().cpu().contiguous().numpy() for part in given), np.float32(radius), np.float32(cell), grid)
    found = torch.from_numpy(grid)
    found[..., 1:] /= found[..., :1].clamp(min=1e-6)  # an empty cell is black instead of 0 / 0
    return found


@_compiled
def _add(
    means: Array,
    inverse: Array,
    low: Array,
    high: Array,
    peak: Array,
    colors: Array,
    radius: float,
    cell: float,
    grid: Array,
) -> None:
    for n in range(len(means)):
        for i in range(low[n, 0], high[n, 0] + 1):
            x = i * cell - radius - means[n, 0]
            for j in range(low[n, 1], high[n, 1] + 1):
                y = j * cell - radius - means[n, 1]
                for k in range(low[n, 2], high[n, 2] + 1):
                    z = k * cell - radius - means[n, 2]
                    own = inverse[n]
                    power = own[0, 0] * x * x + own[1, 1] * y * y + own[2, 2] * z * z
                    power += 2 * (own[0, 1] * x * y + own[0, 2] * x * z + own[1, 2] * y * z)
                    if power < REACH * REACH:
                        density = peak[n] * np.exp(np.float32(-0.5) * power)
                        grid[i, j, k, 0] += density
                        for c in range(3):
                            grid[i, j, k, 1 + c] += density * colors[n, c]
