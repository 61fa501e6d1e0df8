"""Variant of `network.py` with the hidden layer's products in bfloat16, for processors with AVX512-BF16.

Rounded to 8 bits are the features y and their gradient y', the hidden weights W1, and, in products with these, the
gradient m h' of the hidden layer and b = J n'. Sums and the whole output layer are float32: only the rounding of y and
W1 affects the outputs. A sum over features or units multiplies words of two rows, a sum over positions words of two
neighbours.
"""

import numpy as np
import torch

from dreamfusion.ops.hash_field import network, tiles
from dreamfusion.ops.hash_field.network import BLOCK, correlate, gate, load, multiply, padded, signs, store
from dreamfusion.ops.kernel_cache import njit

Array = np.ndarray
Weights = network.Weights
Sums = network.Sums
_compiled = njit(nogil=True, fastmath={"reassoc", "contract", "nsz"}, error_model="numpy")

FEATURES, UNITS = 16, 8  # features and hidden units are padded to multiples of these
_PAIRS = BLOCK // 2


def operand(weight: Array, rows: int, columns: int) -> Array:
    """Convert a matrix for `forward` and `backward`: padded, two neighbours of a row per uint32 word."""
    return torch.from_numpy(padded(weight, rows, columns)).bfloat16().view(torch.int32).numpy().view(np.uint32)


def features(count: int, points: int) -> torch.Tensor:
    """Allocate an even `count` of features of `points` positions; a word holds two features of a position."""
    return torch.empty(count // 2, points, dtype=torch.uint32)


@_compiled
def forward(y: Array, weights: Weights, output: Array, grad_y: Array, begin: int, end: int) -> None:
    """See `network.forward`."""
    hidden_weight, gradient_weight, output_weight = weights
    units, features = hidden_weight.shape[0], 2 * hidden_weight.shape[1]
    x, words = np.empty(features * BLOCK, np.float32), np.empty(features * _PAIRS, np.uint32)
    hidden, unit_words = np.empty(units * BLOCK, np.float32), np.empty(units * _PAIRS, np.uint32)
    out = np.empty(output_weight.shape[0] * BLOCK, np.float32)
    for start in range(begin, end, BLOCK):
        stop = min(start + BLOCK, end)
        load(y, start, stop, words)
        _multiply(hidden_weight, words, True, hidden)
        multiply(output_weight, hidden, out)
        store(out, start, stop, output)
        if grad_y.shape[0] > 0:
            signs(hidden)
            _pack_rows(hidden, unit_words)
            _multiply(gradient_weight, unit_words, False, x)
            store(x, start, stop, grad_y)


@_compiled
def backward(
    y: Array, weights: Weights, to_output: Array, jvp: Array, to_y: Array, sums: Sums, begin: int, end: int
) -> None:
    """See `network.backward`."""
    hidden_weight, hidden_weight_t, output_weight_t = weights
    to_hidden_weight, to_output_weight, q = sums
    units, features = hidden_weight.shape[0], 2 * hidden_weight.shape[1]
    x = np.empty(features * BLOCK, np.float32)
    words, transposed = np.empty(features * _PAIRS, np.uint32), np.empty(features * _PAIRS, np.uint32)
    given = np.empty(output_weight_t.shape[1] * BLOCK, np.float32)
    hidden, to_hidden = np.empty(units * BLOCK, np.float32), np.empty(units * BLOCK, np.float32)
    unit_words = np.empty(units * _PAIRS, np.uint32)
    for start in range(begin, end, BLOCK):
        stop = min(start + BLOCK, end)
        load(y, start, stop, words)
        load(to_output, start, stop, given)
        _multiply(hidden_weight, words, True, hidden)
        if to_output_weight.shape[0] > 0:
            correlate(given, hidden, to_output_weight)
        multiply(output_weight_t, given, to_hidden)
        gate(to_hidden, hidden)
        if to_hidden_weight.shape[0] > 0:
            _correlate(to_hidden, words, unit_words, transposed, to_hidden_weight)
        if jvp.shape[0] > 0:
            signs(hidden)
            load(jvp, start, stop, x)
            _pack_rows(x, words)
            _correlate(hidden, words, unit_words, transposed, q)
        _pack_rows(to_hidden, unit_words)
        _multiply(hidden_weight_t, unit_words, False, x)
        _pack_rows(x, words)
        store(words, start, stop, to_y)


@_compiled
def _pack_rows(x: Array, words: Array) -> None:
    """Pack rows 2 r and 2 r + 1 of a block into row r of words."""
    for k in range(0, x.shape[0], 2 * BLOCK):
        for s in range(0, BLOCK, tiles.LANES):
            tiles.pack_rows(x, k + s, BLOCK, words, k // 2 + s)


@_compiled
def _multiply(weight: Array, x: Array, rectified: bool, out: Array) -> None:
    """out = weight x, rectified on request; computed in tiles of 4 rows and 64 positions."""
    rows, pairs = weight.shape
    weights = weight.reshape(-1)
    for s in range(0, BLOCK, 64):
        for h in range(0, rows, 4):
            tile = tiles.zeros(4, 4)
            for f in range(pairs):
                tile = tiles.add_products(tile, weights, h * pairs + f, pairs, x, f * BLOCK + s)
            if rectified:
                tiles.put_rectified(tile, out, h * BLOCK + s, BLOCK)
            else:
                tiles.put(tile, out, h * BLOCK + s, BLOCK)


@_compiled
def _correlate(g: Array, x: Array, g_words: Array, transposed: Array, out: Array) -> None:
    """out += g x^T, summed over a block; x in words of two rows; `g_words` and `transposed` are scratch buffers."""
    rows, columns = out.shape
    sums = out.reshape(-1)
    for k in range(0, g.shape[0], 2 * tiles.LANES):
        tiles.pack(g, k, g_words, k // 2)
    for f in range(0, columns, 16):
        for s in range(0, BLOCK, 32):
            tiles.transpose(x, f // 2 * BLOCK + s, BLOCK, transposed, s // 2 * columns + f, columns)
    for h in range(0, rows, 8):
        for f in range(0, columns, tiles.LANES):
            tile = tiles.zeros(8, 1)
            for s in range(_PAIRS):
                tile = tiles.add_products(tile, g_words, h * _PAIRS + s, _PAIRS, transposed, s * columns + f)
            tiles.add_to(tile, sums, h * columns + f, columns)
