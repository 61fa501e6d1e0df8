"""Network of one hidden layer, forward and backward, in blocks of positions that stay in the L1 and L2 cache.

Products of 64 x 32 weights with some ten thousand columns, written so that the compiler vectorises over positions and
keeps a tile of weights in registers. The kernels run without the GIL; calls of a matrix library from Python threads
would acquire and release it at every product. Arrays are feature-major; in a block, every number of rows is padded
with zeros to a multiple of TILE. Letters as in cpu.py.
"""

from typing import NamedTuple

import numpy as np
import torch

from dreamfusion.ops.kernel_cache import njit

# Sums may be reordered, but NaNs must propagate, so that a diverging run is detected.
_compiled = njit(nogil=True, fastmath={"reassoc", "contract", "nsz"}, error_model="numpy")

BLOCK = 256  # positions; 64 rows take 64 KB
TILE = 4  # inputs of a product per iteration, for two rows of its output
FEATURES = UNITS = TILE  # features and hidden units are padded to multiples of these
Array = np.ndarray


class Weights(NamedTuple):
    """The weights, each as the product of a pass takes it; `operand` makes those of the hidden layer."""

    hidden: Array  # operand of W1
    hidden_t: Array  # operand of its transpose; for `forward` of the gradient of o_0, W1^T diag(W2[0])
    output: Array  # W2, `padded`; for `backward` its transpose


class Sums(NamedTuple):
    """Gradients of the weights, to which `backward` adds; without rows where they are not needed."""

    hidden: Array  # (m h') y^T
    output: Array  # o' h^T
    q: Array  # Q = m b^T


def padded(matrix: Array, rows: int, columns: int) -> Array:
    """Pad a matrix with zeros to multiples of `rows` and `columns`."""
    shape = [-(-count // multiple) * multiple for count, multiple in zip(matrix.shape, (rows, columns), strict=True)]
    out = np.zeros(shape, np.float32)
    out[: matrix.shape[0], : matrix.shape[1]] = matrix
    return out


operand = padded  # converts a matrix for `forward` and `backward`


def features(count: int, points: int) -> torch.Tensor:
    """Allocate `count` features of `points` positions in the layout of `forward` and `backward`."""
    return torch.empty(count, points)


@_compiled
def forward(y: Array, weights: Weights, output: Array, grad_y: Array, begin: int, end: int) -> None:
    """y (W, S) -> output (O, S), and the gradient of o_0 -> `grad_y` (W, S) if that has rows."""
    hidden_weight, gradient_weight, output_weight = weights
    x = np.empty(hidden_weight.shape[1] * BLOCK, np.float32)
    hidden = np.empty(hidden_weight.shape[0] * BLOCK, np.float32)
    out = np.empty(output_weight.shape[0] * BLOCK, np.float32)
    for start in range(begin, end, BLOCK):
        stop = min(start + BLOCK, end)
        load(y, start, stop, x)
        multiply(hidden_weight, x, hidden)
        _rectify(hidden)
        multiply(output_weight, hidden, out)
        store(out, start, stop, output)
        if grad_y.shape[0] > 0:
            signs(hidden)
            multiply(gradient_weight, hidden, x)
            store(x, start, stop, grad_y)


@_compiled
def backward(
    y: Array, weights: Weights, to_output: Array, jvp: Array, to_y: Array, sums: Sums, begin: int, end: int
) -> None:
    """Write y' (W, S) for o' (O, S), and add to `sums`; b is `jvp`. Arrays without rows are skipped."""
    hidden_weight, hidden_weight_t, output_weight_t = weights
    to_hidden_weight, to_output_weight, q = sums
    x = np.empty(hidden_weight.shape[1] * BLOCK, np.float32)
    given = np.empty(output_weight_t.shape[1] * BLOCK, np.float32)
    hidden = np.empty(hidden_weight.shape[0] * BLOCK, np.float32)
    to_hidden = np.empty(hidden_weight.shape[0] * BLOCK, np.float32)  # slices of one array take 5 times as long
    for start in range(begin, end, BLOCK):
        stop = min(start + BLOCK, end)
        load(y, start, stop, x)
        load(to_output, start, stop, given)
        multiply(hidden_weight, x, hidden)
        _rectify(hidden)
        if to_output_weight.shape[0] > 0:
            correlate(given, hidden, to_output_weight)
        multiply(output_weight_t, given, to_hidden)
        gate(to_hidden, hidden)
        if to_hidden_weight.shape[0] > 0:
            correlate(to_hidden, x, to_hidden_weight)
        if jvp.shape[0] > 0:
            signs(hidden)
            load(jvp, start, stop, x)
            correlate(hidden, x, q)
        multiply(hidden_weight_t, to_hidden, x)
        store(x, start, stop, to_y)


@_compiled
def load(rows: Array, start: int, stop: int, block: Array) -> None:
    """Copy the columns of a block; pad with zeros, which add nothing to a sum."""
    count = stop - start
    if count < BLOCK or rows.shape[0] * BLOCK < block.shape[0]:
        block[:] = 0
    for r in range(rows.shape[0]):
        row = rows[r, start:stop]
        for j in range(count):  # three times as fast as slice assignment in numba
            block[r * BLOCK + j] = row[j]


@_compiled
def store(block: Array, start: int, stop: int, rows: Array) -> None:
    for r in range(rows.shape[0]):
        row = rows[r, start:stop]
        for j in range(stop - start):
            row[j] = block[r * BLOCK + j]


@_compiled
def _rectify(block: Array) -> None:
    for i in range(block.shape[0]):
        value = block[i]
        block[i] = np.float32(0) if value < 0 else value


@_compiled
def gate(block: Array, hidden: Array) -> None:
    """Set entries of inactive units to 0."""
    for i in range(block.shape[0]):
        block[i] = block[i] if hidden[i] > 0 else np.float32(0)


@_compiled
def signs(block: Array) -> None:
    """Replace entries by 1 for active units, else 0."""
    for i in range(block.shape[0]):
        block[i] = np.float32(1) if block[i] > 0 else np.float32(0)


@_compiled
def multiply(weight: Array, x: Array, out: Array) -> None:
    """out = weight x; constant-length slices let the compiler rule out overlap."""
    for h in range(0, weight.shape[0], 2):
        to = out[h * BLOCK : (h + 2) * BLOCK]
        for f in range(0, weight.shape[1], TILE):
            part = x[f * BLOCK : (f + TILE) * BLOCK]
            a0, a1, a2, a3 = weight[h, f], weight[h, f + 1], weight[h, f + 2], weight[h, f + 3]
            b0, b1, b2, b3 = weight[h + 1, f], weight[h + 1, f + 1], weight[h + 1, f + 2], weight[h + 1, f + 3]
            if f == 0:
                for s in range(BLOCK):
                    x0, x1, x2, x3 = part[s], part[BLOCK + s], part[2 * BLOCK + s], part[3 * BLOCK + s]
                    to[s] = a0 * x0 + a1 * x1 + a2 * x2 + a3 * x3
                    to[BLOCK + s] = b0 * x0 + b1 * x1 + b2 * x2 + b3 * x3
            else:
                for s in range(BLOCK):
                    x0, x1, x2, x3 = part[s], part[BLOCK + s], part[2 * BLOCK + s], part[3 * BLOCK + s]
                    to[s] += a0 * x0 + a1 * x1 + a2 * x2 + a3 * x3
                    to[BLOCK + s] += b0 * x0 + b1 * x1 + b2 * x2 + b3 * x3


@_compiled
def correlate(g: Array, x: Array, out: Array) -> None:
    """out += g x^T, summed over the positions of the block."""
    zero = np.float32(0)
    for h in range(0, out.shape[0], 2):
        upper, lower = g[h * BLOCK : (h + 1) * BLOCK], g[(h + 1) * BLOCK : (h + 2) * BLOCK]
        for f in range(0, out.shape[1], TILE):
            part = x[f * BLOCK : (f + TILE) * BLOCK]
            a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = zero
            for s in range(BLOCK):
                u, v = upper[s], lower[s]
                x0, x1, x2, x3 = part[s], part[BLOCK + s], part[2 * BLOCK + s], part[3 * BLOCK + s]
                a0 += u * x0
                a1 += u * x1
                a2 += u * x2
                a3 += u * x3
                b0 += v * x0
                b1 += v * x1
                b2 += v * x2
                b3 += v * x3
            out[h, f] += a0
            out[h, f + 1] += a1
            out[h, f + 2] += a2
            out[h, f + 3] += a3
            out[h + 1, f] += b0
            out[h + 1, f + 1] += b1
            out[h + 1, f + 2] += b2
            out[h + 1, f + 3] += b3
