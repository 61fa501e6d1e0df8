"""`splat` on any GPU: a Triton program draws one tile of 16 x 16 pixels, a few Gaussians at a time, nearest first.

Gaussians are sorted by depth and binned to the tiles with torch; the number of pairs is the only value that the host
reads (`binning.py`). The backward pass writes the gradients of each pair of a tile and a Gaussian to a row of its own,
and a third kernel adds the rows of each Gaussian in their order: no atomics, the same bits from run to run. float32
throughout. Letters: P pairs, K = 6 + C gradients of a pair: of the mean, the conic, the opacity and the features.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from dreamfusion.ops.binning import SIDE, Bins, bin_boxes
from dreamfusion.ops.launch import launch, tile
from dreamfusion.ops.splat import FAINTEST, MOST, Screen, extent

_FAINTEST, _MOST = tl.constexpr(FAINTEST), tl.constexpr(MOST)
_OPAQUE = tl.constexpr(1e-4)  # largest transmittance of a tile behind which nothing is drawn
_GEOMETRY = tl.constexpr(6)  # gradients of a pair besides those of its features
# A warp has a thread for each of 32 pixels, which holds all Gaussians of the chunk: their products need no exchange.
_TILE = {"SIDE": SIDE, "CHUNK": tile(8, interpreted=32), "num_warps": 8}
_SUM = {"GAUSSIANS": tile(4, interpreted=256), "ROWS": tile(8, interpreted=16)}


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
        given = [part.contiguous() for part in (means, conics, opacities, features)]
        bins, order = _bin(Screen(means, conics, opacities, depths), h, w)
        image = features.new_empty(len(features), features.shape[2] + 1, h, w)
        stops = torch.empty_like(bins.starts)
        arrays = *given, bins.starts, bins.items, image, stops
        launch(_forward, (len(stops) - 1,), *arrays, h, w, **_sizes(features))
        ctx.save_for_backward(*given, image, stops, order, *bins)
        return image

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> Any:
        means, conics, opacities, features, image, stops, order, *rest = ctx.saved_tensors
        bins, (b, n, c), (h, w) = Bins(*rest), features.shape, image.shape[2:]
        rows = image.new_zeros(len(bins.items), _GEOMETRY.value + c)  # what is left out stays 0
        arrays = means, conics, opacities, features, bins.starts, bins.items, image, stops
        settings = _sizes(features)
        launch(_backward, (len(stops) - 1,), *arrays, bins.slots, outer.contiguous(), rows, h, w, **settings)
        found = rows.new_empty(b, n, rows.shape[1])
        grid = (triton.cdiv(b * n, _SUM["GAUSSIANS"]),)
        columns = {"K": rows.shape[1], "W": triton.next_power_of_2(rows.shape[1])}
        launch(_sum, grid, rows, bins.ends, order, found, b * n, **columns, **_SUM)
        to_means, to_conics, to_opacities, to_features = found.split([2, 3, 1, c], dim=-1)
        return to_means, to_conics, to_opacities[..., 0], to_features, None, None, None


def _bin(screen: Screen, height: int, width: int) -> tuple[Bins, Tensor]:
    """Pairs of Gaussians and tiles, in a tile the nearest first, and the order (B N,) in which the bins count boxes.

    The shares are the opacities of the views; the pairs name the Gaussians themselves, counted through all views.
    """
    b, n = screen.depths.shape
    level = 2 * (screen.shares.clamp(min=1e-12) / FAINTEST).log()  # of the ellipse's equation where alpha is faintest
    reach = level.clamp(min=0).sqrt()[..., None] * extent(screen.conics)
    order = screen.depths.argsort(dim=1, stable=True)
    order = (order + n * torch.arange(b, device=order.device)[:, None]).view(-1)
    low, high = ((screen.means + sign * reach).view(-1, 2)[order].view(b, n, 2) for sign in (-1, 1))
    drawn = ((screen.depths > 0) & (level > 0)).view(-1)[order].view(b, n)
    bins = bin_boxes(low, high, drawn, height, width)
    return bins._replace(items=order.int()[bins.items]), order


def _sizes(features: Tensor) -> dict[str, int]:
    channels = features.shape[2]
    return {"C": channels, "W": max(triton.next_power_of_2(channels), 1), **_TILE}


@triton.jit(do_not_specialize=["height", "width"])
def _forward(
    means: tl.tensor,  # (B, N, 2)
    conics: tl.tensor,  # (B, N, 3)
    opacities: tl.tensor,  # (B, N)
    features: tl.tensor,  # (B, N, C)
    starts: tl.tensor,  # (B T + 1,) int32
    items: tl.tensor,  # (P,) int32
    image: tl.tensor,  # (B, C + 1, H, W)
    stops: tl.tensor,  # (B T + 1,) int32; the first pair of each tile that is left out
    height: tl.tensor,
    width: tl.tensor,
    C: tl.constexpr,
    W: tl.constexpr,  # C rounded up to a power of 2
    SIDE: tl.constexpr,
    CHUNK: tl.constexpr,
) -> None:
    """Blend the Gaussians of a tile until nothing passes, CHUNK at once."""
    cell = tl.program_id(0)
    x, y, place, inside = _pixels(cell, height, width, C + 1, SIDE)
    at, end = tl.load(starts + cell), tl.load(starts + cell + 1)
    through = tl.where(inside, 1.0, 0.0)
    values = tl.zeros((W, SIDE * SIDE), tl.float32)
    while (at < end) & (tl.max(through, axis=0) >= _OPAQUE):
        pair = at + tl.arange(0, CHUNK)
        own = pair < end
        item = tl.load(items + pair, mask=own, other=0)
        _, _, alpha = _cover(means, conics, opacities, item, own, x, y)
        _, weight, through = _blend(alpha, through)
        feature = _features(features, item, own, C, W)
        values += tl.sum(feature[:, :, None] * weight[:, None, :], axis=0)
        at += CHUNK
    tl.store(stops + cell, tl.minimum(at, end))
    channel, plane = tl.arange(0, W)[:, None], height * width
    tl.store(image + place[None, :] + channel * plane, values, mask=inside[None, :] & (channel < C))
    tl.store(image + place + C * plane, 1 - through, mask=inside)


@triton.jit(do_not_specialize=["height", "width"])
def _backward(
    means: tl.tensor,  # (B, N, 2)
    conics: tl.tensor,  # (B, N, 3)
    opacities: tl.tensor,  # (B, N)
    features: tl.tensor,  # (B, N, C)
    starts: tl.tensor,  # (B T + 1,) int32
    items: tl.tensor,  # (P,) int32
    image: tl.tensor,  # (B, C + 1, H, W)
    stops: tl.tensor,  # (B T + 1,) int32
    slots: tl.tensor,  # (P,) int32
    outer: tl.tensor,  # like `image`: the gradient
    rows: tl.tensor,  # (P, K)
    height: tl.tensor,
    width: tl.tensor,
    C: tl.constexpr,
    W: tl.constexpr,
    SIDE: tl.constexpr,
    CHUNK: tl.constexpr,
) -> None:
    """Repeat the forward pass; what is behind a Gaussian is the pixel's sum less what is in front of it.

    With u_i = <gradient, (features_i, 1)> and w_i = T_i alpha_i, the exponent of alpha_i has the gradient
    w_i u_i - alpha_i / (1 - alpha_i) sum_{j>i} w_j u_j, but 0 where alpha_i is clamped.
    """
    cell = tl.program_id(0)
    x, y, place, inside = _pixels(cell, height, width, C + 1, SIDE)
    channel, plane = tl.arange(0, W)[:, None], height * width
    known = inside[None, :] & (channel < C)
    slopes = tl.load(outer + place[None, :] + channel * plane, mask=known, other=0.0)
    behind = tl.sum(slopes * tl.load(image + place[None, :] + channel * plane, mask=known, other=0.0), axis=0)
    to_opacity = tl.load(outer + place + C * plane, mask=inside, other=0.0)
    behind += to_opacity * tl.load(image + place + C * plane, mask=inside, other=0.0)
    through = tl.where(inside, 1.0, 0.0)
    end = tl.load(stops + cell)
    for at in range(tl.load(starts + cell), end, CHUNK):
        pair = at + tl.arange(0, CHUNK)
        own = pair < end
        item = tl.load(items + pair, mask=own, other=0)
        dx, dy, alpha = _cover(means, conics, opacities, item, own, x, y)
        ratio, weight, through = _blend(alpha, through)
        feature = _features(features, item, own, C, W)
        along = to_opacity[None, :] + tl.sum(feature[:, :, None] * slopes[None, :, :], axis=1)
        rest = behind[None, :] - tl.cumsum(weight * along, axis=0)
        behind -= tl.sum(weight * along, axis=0)
        slope = tl.where(alpha < _MOST, weight * along - rest * ratio, 0.0)
        row = rows + tl.load(slots + pair, mask=own, other=0).to(tl.int64) * (_GEOMETRY + C)
        _store_geometry(row, conics, opacities, item, own, dx, dy, slope)
        column = tl.arange(0, W)[None, :]
        to_features = tl.sum(weight[:, None, :] * slopes[None, :, :], axis=2)
        tl.store(row[:, None] + _GEOMETRY + column, to_features, mask=own[:, None] & (column < C))


@triton.jit(do_not_specialize=["count"])
def _sum(
    rows: tl.tensor,  # (P, K)
    ends: tl.tensor,  # (B N + 1,) int64
    order: tl.tensor,  # (B N,) int64
    found: tl.tensor,  # (B N, K)
    count: tl.tensor,  # B N
    K: tl.constexpr,
    W: tl.constexpr,  # K rounded up to a power of 2
    GAUSSIANS: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    """found[order[m]] = sum of the rows from ends[m] to ends[m + 1]."""
    box = tl.program_id(0) * GAUSSIANS + tl.arange(0, GAUSSIANS)
    begin = tl.load(ends + box, mask=box < count, other=0)
    end = tl.load(ends + box + 1, mask=box < count, other=0)
    column = tl.arange(0, W)
    total = tl.zeros((GAUSSIANS, W), tl.float32)
    for first in range(0, tl.max(end - begin, axis=0).to(tl.int32), ROWS):
        row = begin[:, None] + first + tl.arange(0, ROWS)[None, :]
        own = (row < end[:, None])[:, :, None] & (column < K)[None, None, :]
        total += tl.sum(tl.load(rows + row[:, :, None] * K + column[None, None, :], mask=own, other=0.0), axis=1)
    item = tl.load(order + box, mask=box < count, other=0)
    tl.store(found + item[:, None] * K + column[None, :], total, mask=(box < count)[:, None] & (column < K)[None, :])


@triton.jit
def _pixels(cell: tl.tensor, height: tl.tensor, width: tl.tensor, planes: tl.constexpr, SIDE: tl.constexpr) -> tl.tuple:
    """Centres (SIDE^2,) of a tile's pixels, their place in the first of its view's planes, and which the image has."""
    across = tl.cdiv(width, SIDE)
    tiles = across * tl.cdiv(height, SIDE)
    pixel = tl.arange(0, SIDE * SIDE)
    row = cell % tiles // across * SIDE + pixel // SIDE
    column = cell % tiles % across * SIDE + pixel % SIDE
    first = (cell // tiles).to(tl.int64) * planes * height * width
    return column + 0.5, row + 0.5, first + row * width + column, (row < height) & (column < width)


@triton.jit
def _cover(
    means: tl.tensor,
    conics: tl.tensor,
    opacities: tl.tensor,
    item: tl.tensor,
    own: tl.tensor,
    x: tl.tensor,
    y: tl.tensor,
) -> tl.tuple:
    """Distances of the pixels from the means of the Gaussians, and alpha there, (CHUNK, SIDE^2) each."""
    dx = x[None, :] - tl.load(means + 2 * item, mask=own, other=0.0)[:, None]
    dy = y[None, :] - tl.load(means + 2 * item + 1, mask=own, other=0.0)[:, None]
    a, b, c = _conic(conics, item, own)
    power = -(a[:, None] * dx * dx + c[:, None] * dy * dy) / 2 - b[:, None] * dx * dy
    alpha = tl.load(opacities + item, mask=own, other=0.0)[:, None] * tl.exp(power)
    return dx, dy, tl.where(alpha < _FAINTEST, 0.0, tl.minimum(alpha, _MOST))


@triton.jit
def _blend(alpha: tl.tensor, through: tl.tensor) -> tl.tuple:
    """alpha / (1 - alpha), the weights, and the transmittance behind the chunk; `through` is that in front of it."""
    passed = through[None, :] * tl.cumprod(1 - alpha, axis=0)
    ratio = alpha / (1 - alpha)
    return ratio, passed * ratio, tl.min(passed, axis=0)


@triton.jit
def _features(features: tl.tensor, item: tl.tensor, own: tl.tensor, C: tl.constexpr, W: tl.constexpr) -> tl.tensor:
    """(CHUNK, W)."""
    channel = tl.arange(0, W)[None, :]
    return tl.load(features + item[:, None] * C + channel, mask=own[:, None] & (channel < C), other=0.0)


@triton.jit
def _conic(conics: tl.tensor, item: tl.tensor, own: tl.tensor) -> tl.tuple:
    at = conics + 3 * item
    a, b = tl.load(at, mask=own, other=0.0), tl.load(at + 1, mask=own, other=0.0)
    return a, b, tl.load(at + 2, mask=own, other=0.0)


@triton.jit
def _store_geometry(
    row: tl.tensor,
    conics: tl.tensor,
    opacities: tl.tensor,
    item: tl.tensor,
    own: tl.tensor,
    dx: tl.tensor,
    dy: tl.tensor,
    slope: tl.tensor,
) -> None:
    """Gradients of the mean, the conic and the opacity from that of the exponent, (CHUNK, SIDE^2)."""
    a, b, c = _conic(conics, item, own)
    across, down = slope * dx, slope * dy
    x, y = tl.sum(across, axis=1), tl.sum(down, axis=1)
    tl.store(row, a * x + b * y, mask=own)
    tl.store(row + 1, b * x + c * y, mask=own)
    tl.store(row + 2, -tl.sum(across * dx, axis=1) / 2, mask=own)
    tl.store(row + 3, -tl.sum(across * dy, axis=1), mask=own)
    tl.store(row + 4, -tl.sum(down * dy, axis=1) / 2, mask=own)
    opacity = tl.load(opacities + item, mask=own, other=1.0)
    tl.store(row + 5, tl.sum(slope, axis=1) / opacity, mask=own)
