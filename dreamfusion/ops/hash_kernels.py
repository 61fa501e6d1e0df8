"""Numba kernels of the hash encoding, level by level for all points (after tiny-cuda-nn's blockIdx.y = level).

A level fits the cache where the whole table does not. Points go in blocks of 128: first corner indices and weights,
which the compiler vectorises, then the memory accesses. Positions and features are feature-major: (3, S), (L F, S).
`lanes` is a tuple of F zeros: its length is known to the compiler, so that the loops over pairs of features unroll.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from dreamfusion.ops import pairs
from dreamfusion.ops.hash_grid_layout import PRIMES
from dreamfusion.ops.trilinear import add_curvature, add_slope, expand, weigh, weigh_slope

Array = np.ndarray
_compiled = njit(nogil=True, fastmath=True, error_model="numpy", cache=True)

BLOCK = 128  # points; their indices, weights and fractions take 10 KB
_PRIME_Y, _PRIME_Z = np.uint32(PRIMES[1]), np.uint32(PRIMES[2])
_FAR = 1 << 18  # numbers of a level: 1 MB
_HALF = np.float32(0.5)
_ZERO = np.float32(0)
_NEXT = np.uint64(1)


class Grid(NamedTuple):
    """A `HashGridLayout` in arrays."""

    scale: Array  # (L,) float32
    resolution: Array  # (L,) uint32
    hashed: Array  # (L,) bool
    begin: Array  # (L + 1,) int64, where in the table a level begins; a number each, not an entry


@_compiled
def interpolate(
    x: Array, v: Array, table: Array, grid: Grid, levels: Array, lanes: tuple[int, ...], out: Array
) -> float:
    """out[f, s] = sum over the 8 corners c of w_c(x_s) table[c, f]; with `v` (3, S) of its derivative along v.

    Fills the rows of `levels`. The returned number means nothing (see `_touch`).
    """
    features, points, touched = len(lanes), x.shape[1], _ZERO
    index, weight, cell, fraction = _block()
    for level in levels:
        entries = table[grid.begin[level] : grid.begin[level + 1]]
        touched += _touch(entries, 8 * points * features)
        rows = out[level * features : (level + 1) * features]
        for start in range(0, points, BLOCK):
            count = min(BLOCK, points - start)
            _locate(x, start, count, grid, level, entries.size // features, cell, fraction, index)
            _ask(entries, index, count, features)
            weigh(fraction, v, start, count, grid.scale[level], weight)
            for j in range(count):
                for f in range(0, features, 2):
                    total = np.uint64(pairs.NOTHING)
                    for c in range(8):
                        k = np.uint64(index[c, j]) * np.uint64(features) + np.uint64(f)
                        total = pairs.add_read(total, weight[c, j], entries, k)
                    rows[f, start + j], rows[f + 1, start + j] = pairs.split(total)
    return float(touched)


@_compiled
def interpolate_with_slope(
    x: Array, table: Array, grid: Grid, levels: Array, lanes: tuple[int, ...], out: Array, slope: Array
) -> float:
    """`interpolate`, and slope[d, f, s] = d out[f, s] / d x[d, s] from the same reads, for the rows of `levels`."""
    features, points, touched = len(lanes), x.shape[1], _ZERO
    index, even, cell, fraction = _block()
    odd = np.empty((8, BLOCK), np.float32)
    for level in levels:
        entries, scale = table[grid.begin[level] : grid.begin[level + 1]], grid.scale[level]
        touched += _touch(entries, 8 * points * features)
        for start in range(0, points, BLOCK):
            count = min(BLOCK, points - start)
            _locate(x, start, count, grid, level, entries.size // features, cell, fraction, index)
            _ask(entries, index, count, features)
            for f in range(0, features, 2):
                for j in range(count):
                    for c in range(8):
                        k = np.uint64(index[c, j]) * np.uint64(features) + np.uint64(f)
                        even[c, j], odd[c, j] = entries[k], entries[k + _NEXT]
                row = level * features + f
                expand(even, fraction, start, count, scale, out[row], slope[:, row])
                expand(odd, fraction, start, count, scale, out[row + 1], slope[:, row + 1])
    return float(touched)


@_compiled
def scatter(
    x: Array, v: Array, gradient: Array, bend: Array, grid: Grid, levels: Array, lanes: tuple[int, ...], out: Array
) -> None:
    """The transpose of `interpolate` in the table, for `levels`; with `v` of the sum of both its forms, in one pass.

    out[c, f] = sum over s of w_c(x_s) gradient[f, s] + (v_s . grad w_c(x_s)) bend[f, s].
    """
    features, points = len(lanes), x.shape[1]
    index, weight, cell, fraction = _block()
    slope = np.empty((8, BLOCK), np.float32)
    for level in levels:
        entries = out[grid.begin[level] : grid.begin[level + 1]]
        entries[:] = 0  # here, so that the level is in the cache for what follows
        rows = gradient[level * features : (level + 1) * features]
        bends = bend[level * features : (level + 1) * features]
        for start in range(0, points, BLOCK):
            count = min(BLOCK, points - start)
            _locate(x, start, count, grid, level, entries.size // features, cell, fraction, index)
            _ask(entries, index, count, features)
            weigh(fraction, v[:0], start, count, grid.scale[level], weight)
            if v.size != 0:
                weigh_slope(fraction, v, start, count, grid.scale[level], slope)
            for j in range(count):
                for f in range(0, features, 2):
                    pull = pairs.join(rows[f, start + j], rows[f + 1, start + j])
                    if v.size == 0:
                        for c in range(8):
                            k = np.uint64(index[c, j]) * np.uint64(features) + np.uint64(f)
                            pairs.add_to(entries, k, pairs.scaled(weight[c, j], pull))
                    else:
                        bent = pairs.join(bends[f, start + j], bends[f + 1, start + j])
                        for c in range(8):
                            k = np.uint64(index[c, j]) * np.uint64(features) + np.uint64(f)
                            both = pairs.plus(pairs.scaled(weight[c, j], pull), pairs.scaled(slope[c, j], bent))
                            pairs.add_to(entries, k, both)


@_compiled
def position_gradient(
    x: Array,
    v: Array,
    gradient: Array,
    table: Array,
    grid: Grid,
    lanes: tuple[int, ...],
    begin: int,
    end: int,
    out: Array,
) -> float:
    """Add to out[:, begin:end] the gradient of <gradient, interpolate(x)> to x, or of <gradient, interpolate(x, v)>.

    `begin` is a multiple of BLOCK. The returned number means nothing (see `_touch`).
    """
    features, touched = len(lanes), _ZERO
    index, corner, cell, fraction = _block()
    for level in range(len(grid.scale)):
        entries = table[grid.begin[level] : grid.begin[level + 1]]
        touched += _touch(entries, 8 * (end - begin) * features)
        rows = gradient[level * features : (level + 1) * features]
        for start in range(begin, end, BLOCK):
            count = min(BLOCK, end - start)
            _locate(x, start, count, grid, level, entries.size // features, cell, fraction, index)
            _ask(entries, index, count, features)
            for j in range(count):
                for f in range(0, features, 2):
                    even, odd = rows[f, start + j], rows[f + 1, start + j]
                    for c in range(8):
                        k = np.uint64(index[c, j]) * np.uint64(features) + np.uint64(f)
                        total = entries[k] * even + entries[k + _NEXT] * odd
                        corner[c, j] = total if f == 0 else corner[c, j] + total
            if v.size == 0:
                add_slope(corner, fraction, start, count, grid.scale[level], out)
            else:
                add_curvature(corner, fraction, v, start, count, grid.scale[level], out)
    return float(touched)


@_compiled
def _touch(entries: Array, reads: int) -> np.float32:
    """Read a level once in order, a number per cache line: streaming it in is faster than missing at random.

    Not worth it if less than a quarter of its numbers will be read: there both took the same time, at 2^17 and at 2^19.
    The caller returns the sum, or the compiler drops the reads.
    """
    total = _ZERO
    if 4 * reads > entries.size:
        for k in range(0, entries.size, 16):
            total += entries[k]
    return total


@_compiled
def _ask(entries: Array, index: Array, count: int, features: int) -> None:
    """Ask for a block's entries ahead of their use, if the level is too large for the second cache."""
    if entries.size > _FAR:
        for c in range(8):
            row = index[c]
            for j in range(count):
                pairs.prefetch(entries, np.uint64(row[j]) * np.uint64(features))


@_compiled
def _block() -> tuple[Array, Array, Array, Array]:
    """Scratch of one block: corner indices, corner weights, cells, fractions."""
    return (
        np.empty((8, BLOCK), np.uint32),
        np.empty((8, BLOCK), np.float32),
        np.empty((3, BLOCK), np.uint32),
        np.empty((3, BLOCK), np.float32),
    )


@_compiled
def _locate(
    x: Array, start: int, count: int, grid: Grid, level: int, entries: int, cell: Array, fraction: Array, index: Array
) -> None:
    """The cell of each point, where in it the point is, the entries of its corners (bit d of c is a step along d).

    One short loop per row: with all rows in one loop the compiler gives up on ruling out that they overlap.
    """
    scale, resolution, size = grid.scale[level], grid.resolution[level], np.uint32(entries)
    last = np.int32(resolution) - np.int32(1)  # the bounds keep a position that is not a number inside the table
    for d in range(3):
        along, cells, fractions = x[d, start : start + count], cell[d], fraction[d]
        for j in range(count):
            scaled = scale * along[j] + _HALF
            floor = min(max(np.int32(scaled), np.int32(0)), last)
            cells[j] = np.uint32(floor)
            fractions[j] = scaled - np.float32(floor)
    x0, y0, z0 = cell[0], cell[1], cell[2]
    if grid.hashed[level]:
        mask = np.uint32(size - np.uint32(1))  # a hashed level has 2^n entries
        for j in range(count):
            y0[j] = np.uint32(y0[j] * _PRIME_Y)
        for j in range(count):
            z0[j] = np.uint32(z0[j] * _PRIME_Z)
        for c in range(8):
            dx, dy, dz = np.uint32(c & 1), np.uint32(_PRIME_Y if c & 2 else 0), np.uint32(_PRIME_Z if c & 4 else 0)
            row = index[c]
            for j in range(count):
                row[j] = (np.uint32(x0[j] + dx) ^ np.uint32(y0[j] + dy) ^ np.uint32(z0[j] + dz)) & mask
    else:
        width, plane = np.uint32(resolution), np.uint32(resolution * resolution)
        for j in range(count):
            x0[j] = np.uint32(x0[j] + y0[j] * width + z0[j] * plane)
        for c in range(8):
            step = np.uint32((c & 1) + ((c >> 1) & 1) * width + (c >> 2) * plane)
            row = index[c]
            for j in range(count):
                k = np.uint32(x0[j] + step)
                row[j] = min(k, np.uint32(k - size))  # the far face wraps round: below `size` the difference is huge
