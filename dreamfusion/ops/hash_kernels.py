"""Numba kernels of the hash encoding, level by level for all points (after tiny-cuda-nn's blockIdx.y = level).

A level fits the cache where the whole table does not. Points go in blocks of 128: first corner indices and weights,
which the compiler vectorises, then the memory accesses. Positions and features are feature-major: (3, S), (L F, S).
`lanes` is a tuple of F zeros: its length is known to the compiler, so that the loops over pairs of features unroll.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from dreamfusion.ops.hash_grid_layout import PRIMES

Array = np.ndarray
_compiled = njit(nogil=True, fastmath=True, error_model="numpy", cache=True)

BLOCK = 128  # points; their indices, weights and fractions take 10 KB
_PRIME_Y, _PRIME_Z = np.uint32(PRIMES[1]), np.uint32(PRIMES[2])
_HALF = np.float32(0.5)
_ZERO, _ONE = np.float32(0), np.float32(1)
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
            _weigh(fraction, v, start, count, grid.scale[level], weight)
            for j in range(count):
                for f in range(0, features, 2):
                    even, odd = _ZERO, _ZERO
                    for c in range(8):
                        k = np.uint64(index[c, j]) * np.uint64(features) + np.uint64(f)
                        even += weight[c, j] * entries[k]
                        odd += weight[c, j] * entries[k + _NEXT]
                    rows[f, start + j], rows[f + 1, start + j] = even, odd
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
            for f in range(0, features, 2):
                for j in range(count):
                    for c in range(8):
                        k = np.uint64(index[c, j]) * np.uint64(features) + np.uint64(f)
                        even[c, j], odd[c, j] = entries[k], entries[k + _NEXT]
                row = level * features + f
                _expand(even, fraction, start, count, scale, out[row], slope[:, row])
                _expand(odd, fraction, start, count, scale, out[row + 1], slope[:, row + 1])
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
            _weigh(fraction, v[:0], start, count, grid.scale[level], weight)
            if v.size != 0:
                _weigh_slope(fraction, v, start, count, grid.scale[level], slope)
            for j in range(count):
                for f in range(0, features, 2):
                    even, odd = rows[f, start + j], rows[f + 1, start + j]
                    if v.size == 0:
                        for c in range(8):
                            k = np.uint64(index[c, j]) * np.uint64(features) + np.uint64(f)
                            entries[k] += weight[c, j] * even
                            entries[k + _NEXT] += weight[c, j] * odd
                    else:
                        bend_even, bend_odd = bends[f, start + j], bends[f + 1, start + j]
                        for c in range(8):
                            k = np.uint64(index[c, j]) * np.uint64(features) + np.uint64(f)
                            entries[k] += weight[c, j] * even + slope[c, j] * bend_even
                            entries[k + _NEXT] += weight[c, j] * odd + slope[c, j] * bend_odd


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
            for j in range(count):
                for f in range(0, features, 2):
                    even, odd = rows[f, start + j], rows[f + 1, start + j]
                    for c in range(8):
                        k = np.uint64(index[c, j]) * np.uint64(features) + np.uint64(f)
                        total = entries[k] * even + entries[k + _NEXT] * odd
                        corner[c, j] = total if f == 0 else corner[c, j] + total
            if v.size == 0:
                _add_slope(corner, fraction, start, count, grid.scale[level], out)
            else:
                _add_curvature(corner, fraction, v, start, count, grid.scale[level], out)
    return float(touched)


@_compiled
def _touch(entries: Array, reads: int) -> np.float32:
    """Read a level once in order, a number per cache line: streaming it in is faster than missing at random.

    Not worth it if fewer numbers than it has will be read. The caller returns the sum, or the compiler drops the reads.
    """
    total = _ZERO
    if reads > entries.size:
        for k in range(0, entries.size, 16):
            total += entries[k]
    return total


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


@_compiled
def _weigh(fraction: Array, v: Array, start: int, count: int, scale: np.float32, weight: Array) -> None:
    """Trilinear weights of the corners; with `v` their derivatives along v."""
    if v.size != 0:
        _weigh_slope(fraction, v, start, count, scale, weight)
        return
    for j in range(count):
        x1, y1, z1 = fraction[0, j], fraction[1, j], fraction[2, j]
        x0, y0, z0 = _ONE - x1, _ONE - y1, _ONE - z1
        weight[0, j] = x0 * y0 * z0
        weight[1, j] = x1 * y0 * z0
        weight[2, j] = x0 * y1 * z0
        weight[3, j] = x1 * y1 * z0
        weight[4, j] = x0 * y0 * z1
        weight[5, j] = x1 * y0 * z1
        weight[6, j] = x0 * y1 * z1
        weight[7, j] = x1 * y1 * z1


@_compiled
def _weigh_slope(fraction: Array, v: Array, start: int, count: int, scale: np.float32, weight: Array) -> None:
    """Derivatives of the trilinear weights along v: v . grad w_c."""
    for j in range(count):
        x1, y1, z1 = fraction[0, j], fraction[1, j], fraction[2, j]
        x0, y0, z0 = _ONE - x1, _ONE - y1, _ONE - z1
        vx, vy, vz = scale * v[0, start + j], scale * v[1, start + j], scale * v[2, start + j]
        weight[0, j] = -vx * y0 * z0 - vy * x0 * z0 - vz * x0 * y0
        weight[1, j] = vx * y0 * z0 - vy * x1 * z0 - vz * x1 * y0
        weight[2, j] = -vx * y1 * z0 + vy * x0 * z0 - vz * x0 * y1
        weight[3, j] = vx * y1 * z0 + vy * x1 * z0 - vz * x1 * y1
        weight[4, j] = -vx * y0 * z1 - vy * x0 * z1 + vz * x0 * y0
        weight[5, j] = vx * y0 * z1 - vy * x1 * z1 + vz * x1 * y0
        weight[6, j] = -vx * y1 * z1 + vy * x0 * z1 + vz * x0 * y1
        weight[7, j] = vx * y1 * z1 + vy * x1 * z1 + vz * x1 * y1


@_compiled
def _expand(
    corner: Array, fraction: Array, start: int, count: int, scale: np.float32, value: Array, slope: Array
) -> None:
    """The trilinear interpolation of the corner values, and its gradient."""
    values = value[start : start + count]
    along_x, along_y, along_z = slope[0, start:], slope[1, start:], slope[2, start:]
    for j in range(count):
        x1, y1, z1 = fraction[0, j], fraction[1, j], fraction[2, j]
        c0, c1, c2, c3 = corner[0, j], corner[1, j], corner[2, j], corner[3, j]
        c4, c5, c6, c7 = corner[4, j], corner[5, j], corner[6, j], corner[7, j]
        x00, x10, x01, x11 = c1 - c0, c3 - c2, c5 - c4, c7 - c6
        y00, y10, y01, y11 = c0 + x1 * x00, c2 + x1 * x10, c4 + x1 * x01, c6 + x1 * x11
        near, far = y00 + y1 * (y10 - y00), y01 + y1 * (y11 - y01)
        values[j] = near + z1 * (far - near)
        x_near, x_far = x00 + y1 * (x10 - x00), x01 + y1 * (x11 - x01)
        along_x[j] = scale * (x_near + z1 * (x_far - x_near))
        along_y[j] = scale * (y10 - y00 + z1 * (y11 - y01 - (y10 - y00)))
        along_z[j] = scale * (far - near)


@_compiled
def _add_slope(corner: Array, fraction: Array, start: int, count: int, scale: np.float32, out: Array) -> None:
    """out += the gradient of the trilinear interpolation of the corner values."""
    for j in range(count):
        x1, y1, z1 = fraction[0, j], fraction[1, j], fraction[2, j]
        x0, y0, z0 = _ONE - x1, _ONE - y1, _ONE - z1
        c0, c1, c2, c3 = corner[0, j], corner[1, j], corner[2, j], corner[3, j]
        c4, c5, c6, c7 = corner[4, j], corner[5, j], corner[6, j], corner[7, j]
        k = start + j
        out[0, k] += scale * (((c1 - c0) * y0 + (c3 - c2) * y1) * z0 + ((c5 - c4) * y0 + (c7 - c6) * y1) * z1)
        out[1, k] += scale * (((c2 - c0) * x0 + (c3 - c1) * x1) * z0 + ((c6 - c4) * x0 + (c7 - c5) * x1) * z1)
        out[2, k] += scale * (((c4 - c0) * x0 + (c5 - c1) * x1) * y0 + ((c6 - c2) * x0 + (c7 - c3) * x1) * y1)


@_compiled
def _add_curvature(
    corner: Array, fraction: Array, v: Array, start: int, count: int, scale: np.float32, out: Array
) -> None:
    """out += H v, H the second derivatives of the trilinear interpolation (its diagonal is zero)."""
    for j in range(count):
        x1, y1, z1 = fraction[0, j], fraction[1, j], fraction[2, j]
        c0, c1, c2, c3 = corner[0, j], corner[1, j], corner[2, j], corner[3, j]
        c4, c5, c6, c7 = corner[4, j], corner[5, j], corner[6, j], corner[7, j]
        xy = (c3 - c2 - c1 + c0) * (_ONE - z1) + (c7 - c6 - c5 + c4) * z1
        xz = (c5 - c4 - c1 + c0) * (_ONE - y1) + (c7 - c6 - c3 + c2) * y1
        yz = (c6 - c4 - c2 + c0) * (_ONE - x1) + (c7 - c5 - c3 + c1) * x1
        k = start + j
        vx, vy, vz = scale * scale * v[0, k], scale * scale * v[1, k], scale * scale * v[2, k]
        out[0, k] += vy * xy + vz * xz
        out[1, k] += vx * xy + vz * yz
        out[2, k] += vx * xz + vy * yz
