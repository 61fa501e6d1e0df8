"""`splat` on the CPU: numba loops over tiles of 16 x 16 pixels, one thread for each view, wrapped for autograd.

Gradients are summed in the order of the tiles: bitwise equal from run to run, for any number of threads.
"""

from math import ceil, floor, log, sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamfusion.ops.backend import run_parallel
from dreamfusion.ops.kernel_cache import njit
from dreamfusion.ops.splat import FAINTEST, ROUNDING, Screen, rows

Array = np.ndarray
_compiled = njit(nogil=True, fastmath=True, error_model="numpy")
SIDE = rows.LANES  # of a tile
AREA = SIDE * SIDE
LEAST, LOST = np.float32(FAINTEST), np.float32(ROUNDING)
OPAQUE = np.float32(1e-4)  # largest transmittance of a row below which nothing more is drawn on it
ONE, HALF, ZERO = np.float32(1), np.float32(0.5), np.float32(0)
WEIGHT, ALONG, MOMENTS = rows.WEIGHT, rows.ALONG, rows.MOMENTS
cover, copy, add_scaled, add_product = rows.cover, rows.copy, rows.add_scaled, rows.add_product
chain, total = rows.chain, rows.total


def splat(screen: Screen, opacities: Tensor, features: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """See `dreamfusion.ops.splat.splat`; opacities (B, N) are those of the views."""
    image: Tensor = _Splat.apply(screen.means, screen.conics, opacities, features, screen.depths, height, width)
    return image[:, :-1].permute(0, 2, 3, 1), image[:, -1]


class _Splat(torch.autograd.Function):
    """The image as planes (B, C + 1, H, W), the opacity last."""

    @staticmethod
    def forward(
        ctx: Any, means: Tensor, conics: Tensor, opacities: Tensor, features: Tensor, depths: Tensor, h: int, w: int
    ) -> Tensor:
        b, _, c = features.shape
        image = np.zeros((b, c + 1, h, w), np.float32)
        given = _arrays(means, conics, opacities, features)
        order = np.argsort(depths.detach().numpy(), axis=1, kind="stable")
        bins: list[Any] = [None] * b

        def one(view: int) -> None:
            own = given[0][view], given[1][view], given[2][view]
            bins[view] = _tiles(*own, depths.detach().numpy()[view], order[view], h, w)
            _forward(*own, given[3][view], *bins[view], image[view])

        run_parallel(one, range(b))
        found = torch.from_numpy(image)
        ctx.save_for_backward(means, conics, opacities, features, found)
        ctx.bins = bins
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, outer: Tensor) -> Any:
        means, conics, opacities, features, image = _arrays(*ctx.saved_tensors)
        (slopes,) = _arrays(outer)
        b, n, c = features.shape
        found = [np.zeros((b, n, size), np.float32) for size in (2, 3, 1, c)]  # of means, conics, opacities, features

        def one(view: int) -> None:
            own = means[view], conics[view], opacities[view], features[view], *ctx.bins[view], image[view], slopes[view]
            _backward(*own, *(part[view] for part in found))

        run_parallel(one, range(b))
        to_means, to_conics, to_opacities, to_features = (torch.from_numpy(part) for part in found)
        return to_means, to_conics, to_opacities[..., 0], to_features, None, None, None


def _arrays(*tensors: Tensor) -> list[Array]:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


@_compiled
def _determinant(a: Any, b: Any, c: Any) -> Any:
    """See `extent`."""
    both = a * c
    return max(both - b * b - LOST * both, LOST * both)


@_compiled
def _tiles(
    means: Array, conics: Array, opacities: Array, depths: Array, order: Array, height: int, width: int
) -> tuple[Array, Array]:
    """The Gaussians of tile t are `items[starts[t]:starts[t + 1]]`, nearest first."""
    down, across = -(-height // SIDE), -(-width // SIDE)
    box = np.empty((len(order), 4), np.int32)
    starts = np.zeros(down * across + 1, np.int64)
    for k in range(len(order)):
        i = order[k]
        a, b, c = conics[i, 0], conics[i, 1], conics[i, 2]
        box[k, 1] = -1  # reaches no tile
        if depths[i] > ZERO and opacities[i] > LEAST:
            scale = 2 * log(opacities[i] / LEAST) / _determinant(a, b, c)
            x, y = sqrt(scale * c), sqrt(scale * a)
            # The bounds come before the conversion: an integer holds no infinity.
            box[k, 0] = floor(max(means[i, 0] - x, ZERO) / SIDE)
            box[k, 1] = floor(min(max(means[i, 0] + x, -ONE), width - 1) / SIDE)
            box[k, 2] = floor(max(means[i, 1] - y, ZERO) / SIDE)
            box[k, 3] = floor(min(max(means[i, 1] + y, -ONE), height - 1) / SIDE)
            if means[i, 0] - x > width or means[i, 1] - y > height:
                box[k, 1] = -1
            # Of a number that is none, the conversion makes any integer.
            box[k, 0], box[k, 1] = max(box[k, 0], 0), min(box[k, 1], across - 1)
            box[k, 2], box[k, 3] = max(box[k, 2], 0), min(box[k, 3], down - 1)
        if box[k, 1] < 0:
            box[k, 0], box[k, 2], box[k, 3] = 0, 0, -1
        for row in range(box[k, 2], box[k, 3] + 1):
            for column in range(box[k, 0], box[k, 1] + 1):
                starts[row * across + column + 1] += 1
    starts = np.cumsum(starts)
    place, items = starts.copy(), np.empty(starts[-1], np.int32)
    for k in range(len(order)):
        for row in range(box[k, 2], box[k, 3] + 1):
            for column in range(box[k, 0], box[k, 1] + 1):
                items[place[row * across + column]] = order[k]
                place[row * across + column] += 1
    return starts, items


@_compiled
def _extent(
    i: int, top: int, count: int, means: Array, conics: Array, opacities: Array
) -> tuple[int, int, Any, Any, Any, Any]:
    """First and last row of the tile that Gaussian i reaches, a, b, c, and its exponent where it is faintest."""
    a, b, c = conics[i, 0], conics[i, 1], conics[i, 2]
    least = np.float32(log(LEAST / opacities[i]))
    reach = np.float32(sqrt(-2 * least * a / _determinant(a, b, c)))
    middle = means[i, 1] - HALF - np.float32(top)
    first = ceil(max(middle - reach, ZERO))
    last = floor(min(middle + reach, np.float32(count - 1)))
    return max(int(first), 0), min(int(last), count - 1), a, b, c, least


@_compiled
def _forward(
    means: Array, conics: Array, opacities: Array, features: Array, starts: Array, items: Array, image: Array
) -> None:
    channels, height, width = image.shape
    across = -(-width // SIDE)
    through, values = np.empty(AREA, np.float32), np.empty(channels * AREA, np.float32)
    work = np.empty(3 * SIDE, np.float32)
    for tile in range(len(starts) - 1):
        top, left = tile // across * SIDE, tile % across * SIDE
        count, columns = min(SIDE, height - top), min(SIDE, width - left)
        through[:] = ONE
        values[:] = ZERO
        live = count  # rows that something passes
        done = np.zeros(SIDE, np.bool_)
        for index in range(starts[tile], starts[tile + 1]):
            i = items[index]
            first, last, a, b, c, least = _extent(i, top, count, means, conics, opacities)
            dx = np.float32(left) + HALF - means[i, 0]
            for row in range(first, last + 1):
                if done[row]:
                    continue
                k = row * SIDE
                dy = np.float32(top + row) + HALF - means[i, 1]
                passing = cover(through, k, work, dx, -HALF * c * dy * dy, -b * dy, -HALF * a, opacities[i], least)
                for channel in range(channels - 1):
                    add_scaled(values, channel * AREA + k, work, WEIGHT, features[i, channel])
                if passing < OPAQUE:
                    done[row] = True
                    live -= 1
            if live == 0:
                break
        for channel in range(channels):
            for row in range(count):
                for x in range(columns):
                    k = row * SIDE + x
                    value = values[channel * AREA + k] if channel < channels - 1 else ONE - through[k]
                    image[channel, top + row, left + x] = value


@_compiled
def _backward(
    means: Array,
    conics: Array,
    opacities: Array,
    features: Array,
    starts: Array,
    items: Array,
    image: Array,
    outer: Array,
    to_means: Array,
    to_conics: Array,
    to_opacities: Array,
    to_features: Array,
) -> None:
    """Repeats the forward pass; what is behind a Gaussian is the pixel's sum less what is in front of it."""
    channels, height, width = image.shape
    across = -(-width // SIDE)
    work, sums = np.empty(3 * SIDE, np.float32), np.zeros((MOMENTS + channels) * SIDE, np.float32)
    through, behind = np.empty(AREA, np.float32), np.empty(AREA, np.float32)
    slopes = np.empty(channels * AREA, np.float32)
    for tile in range(len(starts) - 1):
        top, left = tile // across * SIDE, tile % across * SIDE
        count, columns = min(SIDE, height - top), min(SIDE, width - left)
        through[:] = ONE
        behind[:] = ZERO
        slopes[:] = ZERO
        for channel in range(channels):
            for row in range(count):
                for x in range(columns):
                    slope = outer[channel, top + row, left + x]
                    slopes[channel * AREA + row * SIDE + x] = slope
                    behind[row * SIDE + x] += slope * image[channel, top + row, left + x]
        live = count
        done = np.zeros(SIDE, np.bool_)
        for index in range(starts[tile], starts[tile + 1]):
            i = items[index]
            first, last, a, b, c, least = _extent(i, top, count, means, conics, opacities)
            dx = np.float32(left) + HALF - means[i, 0]
            for row in range(first, last + 1):
                if done[row]:
                    continue
                k = row * SIDE
                dy = np.float32(top + row) + HALF - means[i, 1]
                passing = cover(through, k, work, dx, -HALF * c * dy * dy, -b * dy, -HALF * a, opacities[i], least)
                copy(work, ALONG, slopes, (channels - 1) * AREA + k)
                for channel in range(channels - 1):
                    add_scaled(work, ALONG, slopes, channel * AREA + k, features[i, channel])
                    add_product(sums, (MOMENTS + channel) * SIDE, work, WEIGHT, slopes, channel * AREA + k)
                chain(behind, k, work, dx, dy, sums)
                if passing < OPAQUE:
                    done[row] = True
                    live -= 1
            slope, x, y = total(sums, 0), total(sums, SIDE), total(sums, 2 * SIDE)
            to_means[i, 0] += a * x + b * y
            to_means[i, 1] += b * x + c * y
            to_conics[i, 0] -= HALF * total(sums, 3 * SIDE)
            to_conics[i, 1] -= total(sums, 4 * SIDE)
            to_conics[i, 2] -= HALF * total(sums, 5 * SIDE)
            to_opacities[i, 0] += slope / opacities[i]
            for channel in range(channels - 1):
                to_features[i, channel] += total(sums, (MOMENTS + channel) * SIDE)
            if live == 0:
                break
