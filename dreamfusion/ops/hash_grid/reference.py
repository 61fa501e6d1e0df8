"""Torch reference of the hash-grid encoding: baseline of the kernel tests, and fallback on every device.

Differentiable to any order; supports float64.
"""

from itertools import product

import numpy as np
import torch
from torch import Tensor

from dreamfusion.ops.backend import widest_float
from dreamfusion.ops.hash_grid.layout import PRIMES, HashGridLayout


def hash_encode(positions: Tensor, table: Tensor, layout: HashGridLayout) -> Tensor:
    """Interpolate the table trilinearly at `positions` (S, 3), on every level -> (S, layout.width)."""
    clamped = positions.clamp(0, 1).to(widest_float(positions.device))
    entries_of_level = table.reshape(-1, layout.features).split(layout.sizes)
    encoded = []
    for level, entries in enumerate(entries_of_level):
        # Rounds once, as tiny-cuda-nn's fmaf(scale, x, 0.5). The half cell staggers the levels (C:1017-1029).
        scaled = (clamped * layout.scales[level] + 0.5).to(positions.dtype)
        cell = scaled.detach().floor()
        x, y, z = (scaled - cell).unbind(-1)
        corner = cell.long().unbind(-1)
        value = table.new_zeros(())
        for i, j, k in product((0, 1), repeat=3):
            weight = (x if i else 1 - x) * (y if j else 1 - y) * (z if k else 1 - z)
            index = _index(corner[0] + i, corner[1] + j, corner[2] + k, layout, level)
            value = value + weight[:, None] * entries.index_select(0, index)
        encoded.append(value)
    return torch.cat(encoded, dim=-1)


def corner_entries(positions: Tensor, layout: HashGridLayout, level: int) -> np.ndarray:
    """Entries of a level that an encoding of `positions` (S, 3) in [0, 1] reads -> (S, 8) uint32, from 0."""
    corner = (positions.double() * layout.scales[level] + 0.5).to(positions.dtype).floor().long()
    steps = torch.tensor(list(product((0, 1), repeat=3)))
    x, y, z = (corner[:, None] + steps).view(-1, 3).unbind(-1)
    entries: np.ndarray = _index(x, y, z, layout, level).view(-1, 8).numpy()
    return entries.astype(np.uint32)


def _index(x: Tensor, y: Tensor, z: Tensor, layout: HashGridLayout, level: int) -> Tensor:
    """Entries (S,) of the vertices, (S,) int64 each; the far face of a dense level wraps around (C:883)."""
    if layout.dense[level]:
        index = x + y * layout.resolutions[level] + z * layout.resolutions[level] ** 2
    else:
        index = x * PRIMES[0] ^ y * PRIMES[1] ^ z * PRIMES[2]
    return index % layout.sizes[level]  # hashed sizes are powers of two, so the bits above 32 do not matter
