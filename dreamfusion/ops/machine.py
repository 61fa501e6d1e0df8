"""Measured limits of the machine: the time of random reads and of arithmetic that an operation needs.

The benchmark compares the kernels with these.
"""

import numpy as np
import torch
from torch import Tensor

from dreamfusion.ops.hash_grid.kernels import stream_in
from dreamfusion.ops.hash_grid.layout import HashGridLayout
from dreamfusion.ops.hash_grid.reference import corner_entries
from dreamfusion.ops.kernel_cache import njit

_compiled = njit(nogil=True, fastmath=True, error_model="numpy")


class Gather:
    """Only the reads of one encoding: two features for each corner, with indices computed beforehand."""

    def __init__(self, positions: Tensor, layout: HashGridLayout, in_order: bool) -> None:
        """Positions (S, 3) in [0, 1]; levels in the order of the kernels.

        `in_order`: read each level in order first where the kernels do so, which is faster than random reads alone.
        """
        self._in_order = in_order
        self._entries = np.stack([corner_entries(positions, layout, level) for level in range(layout.levels)])
        self._begin = np.array((*layout.offsets, sum(layout.sizes)), np.int64)
        self._table = np.ones(layout.parameter_count, np.float32).view(np.uint64)

    def __call__(self) -> int:
        """Run all reads once, in this thread; the returned checksum has no meaning."""
        return int(_gather(self._entries, self._begin, self._table, self._in_order))


class Multiply:
    """A large square matrix product, as a measure of peak arithmetic throughput."""

    size = 768
    flop = 2 * size**3

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self._a, self._b = torch.randn(2, self.size, self.size, generator=generator)

    def __call__(self) -> Tensor:
        return self._a @ self._b


@_compiled
def _gather(entries: np.ndarray, begin: np.ndarray, table: np.ndarray, in_order: bool) -> np.uint64:
    """Sum the 8-byte entries at (L, S, 8) indices, so that the compiler cannot remove a read."""
    total = np.uint64(0)
    for level in range(entries.shape[0]):
        rows, values = entries[level], table[begin[level] : begin[level + 1]]
        if in_order:
            stream_in(values.view(np.float32), 2 * rows.size)
        for s in range(rows.shape[0]):
            for c in range(8):
                total += values[np.uint64(rows[s, c])]
    return total
