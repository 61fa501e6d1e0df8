"""Numba kernels of the hash encoding, level by level for all points (after tiny-cuda-nn's blockIdx.y = level).

A level fits the cache where the whole table does not. Points are processed in blocks of 128: first corner indices and
weights, which the compiler vectorises, then the memory accesses. Positions and features are feature-major: (3, S),
(L F, S); features also as words of two bfloat16, (L F / 2, S) uint32, for a network that multiplies in bfloat16.
`lanes` is a tuple of F zeros: its length is a compile-time constant, so that loops over pairs of features unroll.
`left` (1,) int64 counts the remaining levels, from the coarsest: threads atomically take the last one.
"""

from typing import NamedTuple

import numpy as np

from dreamfusion.ops.hash_grid import pairs
from dreamfusion.ops.hash_grid.layout import PRIMES
from dreamfusion.ops.hash_grid.trilinear import BLOCK, add_gradient, add_hessian_product, expand, weigh, weigh_jvp
from dreamfusion.ops.kernel_cache import njit

Array = np.ndarray
_compiled = njit(nogil=True, fastmath=True, error_model="numpy")

_PRIME_Y, _PRIME_Z = np.uint32(PRIMES[1]), np.uint32(PRIMES[2])
_FAR = 1 << 18  # numbers in a level: 1 MB
_HALF = np.float32(0.5)
_NEXT, _STEP = np.uint64(1), np.uint32(1)


class Grid(NamedTuple):
    """A `HashGridLayout` as arrays."""

    scale: Array  # (L,) float32
    resolution: Array  # (L,) uint32
    hashed: Array  # (L,) bool
    begin: Array  # (L + 1,) int64, first number (not entry) of each level in the table


@_compiled
def interpolate(x: Array, v: Array, table: Array, grid: Grid, left: Array, lanes: tuple[int, ...], out: Array) -> None:
    """out[f, s] = sum over the 8 corners c of w_c(x_s) table[c, f]; with `v` (3, S) its derivative along v."""
    features, points = len(lanes), x.shape[1]
    index, weight, cell, fraction = _block()
    for _ in range(len(grid.scale)):
        level = pairs.take(left)
        if level < 0:
            break
        entries = table[grid.begin[level] : grid.begin[level + 1]]
        stream_in(entries, 8 * points * features)
        for start in range(0, points, BLOCK):
            count = min(BLOCK, points - start)
            _locate(x, start, count, grid, level, entries.size // features, cell, fraction, index)
            _prefetch(entries, index, count, features)
            weigh(fraction, v, start, count, grid.scale[level], weight)
            for j in range(count):
                for f in range(0, features, 2):
                    total = np.uint64(pairs.NOTHING)
                    for c in range(8):
                        k = np.uint64(index[c * BLOCK + j]) * np.uint64(features) + np.uint64(f)
                        total = pairs.add_read(total, weight[c * BLOCK + j], entries, k)
                    pairs.put(out, level * features + f, start + j, total)


@_compiled
def interpolate_jacobian(
    x: Array, table: Array, grid: Grid, left: Array, lanes: tuple[int, ...], out: Array, jacobian: Array
) -> None:
    """`interpolate`, and jacobian[d, f, s] = d out[f, s] / d x[d, s] from the same reads."""
    features, points = len(lanes), x.shape[1]
    index, even, cell, fraction = _block()
    odd, both = np.empty(8 * BLOCK, np.float32), np.empty((2, 4 * BLOCK), np.float32)
    for _ in range(len(grid.scale)):
        level = pairs.take(left)
        if level < 0:
            break
        entries, scale = table[grid.begin[level] : grid.begin[level + 1]], grid.scale[level]
        stream_in(entries, 8 * points * features)
        for start in range(0, points, BLOCK):
            count = min(BLOCK, points - start)
            _locate(x, start, count, grid, level, entries.size // features, cell, fraction, index)
            _prefetch(entries, index, count, features)
            for f in range(0, features, 2):
                for j in range(count):
                    for c in range(8):
                        k = np.uint64(index[c * BLOCK + j]) * np.uint64(features) + np.uint64(f)
                        even[c * BLOCK + j], odd[c * BLOCK + j] = entries[k], entries[k + _NEXT]
                row = level * features + f
                expand(even, fraction, start, count, scale, both[0], jacobian[:, row])
                expand(odd, fraction, start, count, scale, both[1], jacobian[:, row + 1])
                for j in range(count):
                    pairs.put(out, row, start + j, pairs.join(both[0, j], both[1, j]))


@_compiled
def scatter(
    x: Array, v: Array, gradient: Array, jvp_grad: Array, grid: Grid, left: Array, lanes: tuple[int, ...], out: Array
) -> None:
    """Transpose of `interpolate` with respect to the table; with `v`, the sum over both its forms, in one pass.

    out[c, f] = sum over s of w_c(x_s) gradient[f, s] + (v_s . grad w_c(x_s)) jvp_grad[f, s].
    """
    features, points = len(lanes), x.shape[1]
    index, weight, cell, fraction = _block()
    dweight = np.empty(8 * BLOCK, np.float32)
    for _ in range(len(grid.scale)):
        level = pairs.take(left)
        if level < 0:
            break
        entries = out[grid.begin[level] : grid.begin[level + 1]]
        entries[:] = 0  # also brings the level into the cache
        for start in range(0, points, BLOCK):
            count = min(BLOCK, points - start)
            _locate(x, start, count, grid, level, entries.size // features, cell, fraction, index)
            _prefetch(entries, index, count, features)
            weigh(fraction, v[:0], start, count, grid.scale[level], weight)
            if v.size != 0:
                weigh_jvp(fraction, v, start, count, grid.scale[level], dweight)
            for j in range(count):
                for f in range(0, features, 2):
                    grad = pairs.get(gradient, level * features + f, start + j)
                    if v.size == 0:
                        for c in range(8):
                            k = np.uint64(index[c * BLOCK + j]) * np.uint64(features) + np.uint64(f)
                            pairs.add_to(entries, k, pairs.scaled(weight[c * BLOCK + j], grad))
                    else:
                        tangent = pairs.get(jvp_grad, level * features + f, start + j)
                        for c in range(8):
                            k = np.uint64(index[c * BLOCK + j]) * np.uint64(features) + np.uint64(f)
                            product = pairs.scaled(weight[c * BLOCK + j], grad)
                            pairs.add_to(entries, k, pairs.plus(product, pairs.scaled(dweight[c * BLOCK + j], tangent)))


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
) -> None:
    """Add to out[:, begin:end] the x-gradient of <gradient, interpolate(x)>, or of <gradient, interpolate(x, v)>.

    `begin` is a multiple of BLOCK.
    """
    features = len(lanes)
    index, corner, cell, fraction = _block()
    for level in range(len(grid.scale)):
        entries = table[grid.begin[level] : grid.begin[level + 1]]
        stream_in(entries, 8 * (end - begin) * features)
        rows = gradient[level * features : (level + 1) * features]
        for start in range(begin, end, BLOCK):
            count = min(BLOCK, end - start)
            _locate(x, start, count, grid, level, entries.size // features, cell, fraction, index)
            _prefetch(entries, index, count, features)
            for j in range(count):
                for f in range(0, features, 2):
                    even, odd = rows[f, start + j], rows[f + 1, start + j]
                    for c in range(8):
                        k = np.uint64(index[c * BLOCK + j]) * np.uint64(features) + np.uint64(f)
                        total = entries[k] * even + entries[k + _NEXT] * odd
                        corner[c * BLOCK + j] = total if f == 0 else corner[c * BLOCK + j] + total
            if v.size == 0:
                add_gradient(corner, fraction, start, count, grid.scale[level], out)
            else:
                add_hessian_product(corner, fraction, v, start, count, grid.scale[level], out)


@_compiled
def stream_in(entries: Array, reads: int) -> None:
    """Read one number per cache line of a level in order, which is faster than cache misses at random.

    Skipped if the kernel reads fewer numbers than a sixteenth of the level: measured at 2^17 and at 2^19.
    """
    if 16 * reads > entries.size:
        for k in range(0, entries.size, 16):
            pairs.read(entries, np.uint64(k))


@_compiled
def _prefetch(entries: Array, index: Array, count: int, features: int) -> None:
    """Prefetch the entries of a block if the level is too large for the L2 cache."""
    if entries.size > _FAR:
        for c in range(8):
            for j in range(count):
                pairs.prefetch(entries, np.uint64(index[c * BLOCK + j]) * np.uint64(features))


@_compiled
def _block() -> tuple[Array, Array, Array, Array]:
    """Scratch buffers of one block: corner indices, corner weights, cells, fractions."""
    return (
        np.empty(8 * BLOCK, np.uint32),
        np.empty(8 * BLOCK, np.float32),
        np.empty(3 * BLOCK, np.uint32),
        np.empty(3 * BLOCK, np.float32),
    )


@_compiled
def _locate(
    x: Array, start: int, count: int, grid: Grid, level: int, entries: int, cell: Array, fraction: Array, index: Array
) -> None:
    """Compute each point's cell, its position in the cell, and the corners' entries (bit d of c: step along d)."""
    scale, resolution, size = grid.scale[level], grid.resolution[level], np.uint32(entries)
    last = np.int32(resolution) - np.int32(1)  # the bounds keep a NaN position inside the table
    for d in range(3):
        along = x[d, start : start + count]
        for j in range(count):
            scaled = scale * along[j] + _HALF
            floor = min(max(np.int32(scaled), np.int32(0)), last)
            cell[d * BLOCK + j] = np.uint32(floor)
            fraction[d * BLOCK + j] = scaled - np.float32(floor)
    if grid.hashed[level]:
        mask = np.uint32(size - _STEP)  # a hashed level has 2^n entries
        for j in range(count):
            x0, y0, z0 = cell[j], np.uint32(cell[BLOCK + j] * _PRIME_Y), np.uint32(cell[2 * BLOCK + j] * _PRIME_Z)
            x1, y1, z1 = np.uint32(x0 + _STEP), np.uint32(y0 + _PRIME_Y), np.uint32(z0 + _PRIME_Z)
            index[j], index[BLOCK + j] = (x0 ^ y0 ^ z0) & mask, (x1 ^ y0 ^ z0) & mask
            index[2 * BLOCK + j], index[3 * BLOCK + j] = (x0 ^ y1 ^ z0) & mask, (x1 ^ y1 ^ z0) & mask
            index[4 * BLOCK + j], index[5 * BLOCK + j] = (x0 ^ y0 ^ z1) & mask, (x1 ^ y0 ^ z1) & mask
            index[6 * BLOCK + j], index[7 * BLOCK + j] = (x0 ^ y1 ^ z1) & mask, (x1 ^ y1 ^ z1) & mask
    else:
        width, plane = np.uint32(resolution), np.uint32(resolution * resolution)
        for j in range(count):
            cell[j] = np.uint32(cell[j] + cell[BLOCK + j] * width + cell[2 * BLOCK + j] * plane)
        for c in range(8):
            step = np.uint32((c & 1) + ((c >> 1) & 1) * width + (c >> 2) * plane)
            for j in range(count):
                k = np.uint32(cell[j] + step)
                index[c * BLOCK + j] = min(k, np.uint32(k - size))  # wraps the far face; k < size underflows
