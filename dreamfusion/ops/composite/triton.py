"""Compositing on any GPU: Triton kernels that scan or sum tiles of a few rays by a few samples, front to back.

Deterministic: nothing is summed by atomics. float32 throughout: the sums are per ray, and no difference cancels.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from dreamfusion.ops.launch import launch, tile
from dreamfusion.types import RaySamples

_TILE = {"RAYS": tile(4, interpreted=128), "SAMPLES": tile(32, interpreted=64)}
_LANES = tile(256, interpreted=4096)


def composite(density: Tensor, samples: RaySamples) -> Tensor:
    """(S,) -> (S,); see `dreamfusion.ops.composite.composite`."""
    weights: Tensor = _Composite.apply(density, samples)
    return weights


def accumulate(weights: Tensor, values: Sequence[Tensor], samples: RaySamples) -> tuple[Tensor, Tensor, Tensor]:
    """See `dreamfusion.ops.composite.accumulate`."""
    rows = torch.cat([value.t() for value in values]) if values else weights.new_empty(0, len(weights))
    sums: Tensor = _Accumulate.apply(weights, rows, samples)
    return sums[2:].t(), sums[:1].t(), sums[1:2].t()


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, density: Tensor, samples: RaySamples) -> Tensor:
        weights, after = torch.empty_like(samples.t_start), torch.empty_like(samples.t_start)
        launch(_weigh, _rays(samples), density.contiguous(), *_intervals(samples), weights, after, **_TILE)
        ctx.save_for_backward(weights, after)
        ctx.samples = samples  # type: ignore[attr-defined]
        return weights

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        weights, after = ctx.saved_tensors  # type: ignore[attr-defined]
        samples: RaySamples = ctx.samples  # type: ignore[attr-defined]
        to_density = torch.empty_like(weights)
        arrays = weights, after, gradient.contiguous()
        launch(_weigh_backward, _rays(samples), *arrays, *_intervals(samples), to_density, **_TILE)
        return to_density, None


class _Accumulate(torch.autograd.Function):
    """Depth, opacity and the sums of the values (C, S) as rows: (2 + C, R)."""

    @staticmethod
    def forward(ctx: FunctionCtx, weights: Tensor, values: Tensor, samples: RaySamples) -> Tensor:
        weights, values = weights.contiguous(), values.contiguous()
        sums = weights.new_empty(2 + len(values), len(samples.offsets) - 1)
        arrays = weights, values, *_intervals(samples), sums, len(weights)
        launch(_sum, (*_rays(samples), len(sums)), *arrays, **_TILE)
        ctx.save_for_backward(weights, values)
        ctx.samples = samples  # type: ignore[attr-defined]
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        weights, values = ctx.saved_tensors  # type: ignore[attr-defined]
        samples: RaySamples = ctx.samples  # type: ignore[attr-defined]
        to_weights, to_values = torch.empty_like(weights), torch.empty_like(values)
        along = samples.ray.contiguous(), samples.t_start.contiguous(), samples.t_end.contiguous()
        arrays = gradient.contiguous(), weights, values, *along, to_weights, to_values
        sizes = gradient.shape[1], len(weights), len(values)
        launch(_sum_backward, (triton.cdiv(len(weights), _LANES),), *arrays, *sizes, LANES=_LANES)
        return to_weights, to_values, None


def _rays(samples: RaySamples) -> tuple[int]:
    """Programs for all rays."""
    return (triton.cdiv(len(samples.offsets) - 1, _TILE["RAYS"]),)


def _intervals(samples: RaySamples) -> tuple[Tensor, Tensor, Tensor, int]:
    offsets = samples.offsets.contiguous()
    return offsets, samples.t_start.contiguous(), samples.t_end.contiguous(), len(offsets) - 1


@triton.jit(do_not_specialize=["rays"])
def _weigh(
    density: tl.tensor,  # (S,)
    offsets: tl.tensor,  # (R + 1,) int64
    t_start: tl.tensor,  # (S,)
    t_end: tl.tensor,  # (S,)
    rays: tl.tensor,  # R
    weights: tl.tensor,  # (S,)
    after: tl.tensor,  # (S,)
    RAYS: tl.constexpr,
    SAMPLES: tl.constexpr,
) -> None:
    """w_i = T_i (1 - exp(-x_i)), and T_{i+1} for the backward pass, with x_i = density_i dt_i the optical depth."""
    begin, end, longest = _spans(offsets, rays, RAYS)
    column = tl.arange(0, SAMPLES)[None, :]
    before = tl.zeros((RAYS,), tl.float32)
    for first in range(0, longest, SAMPLES):
        place = begin + first + column
        own, previous = place < end, (place <= end) & (column > 0)
        depth = _optical_depth(density, t_start, t_end, place, own)
        # Sums up to the previous sample: subtracting the own depth would cancel where it is large.
        total = before[:, None] + tl.cumsum(_optical_depth(density, t_start, t_end, place - 1, previous), axis=1)
        tl.store(weights + place, tl.exp(-total) * _absorbed(depth), mask=own)
        tl.store(after + place, tl.exp(-(total + depth)), mask=own)
        before += tl.sum(depth, axis=1)


@triton.jit(do_not_specialize=["rays"])
def _weigh_backward(
    weights: tl.tensor,  # (S,)
    after: tl.tensor,  # (S,)
    gradient: tl.tensor,  # (S,)
    offsets: tl.tensor,  # (R + 1,) int64
    t_start: tl.tensor,  # (S,)
    t_end: tl.tensor,  # (S,)
    rays: tl.tensor,  # R
    to_density: tl.tensor,  # (S,)
    RAYS: tl.constexpr,
    SAMPLES: tl.constexpr,
) -> None:
    """dL/ddensity_i = dt_i (T_{i+1} g_i - sum_{j>i} w_j g_j), from the last tile to the first."""
    begin, end, longest = _spans(offsets, rays, RAYS)
    column = tl.arange(0, SAMPLES)[None, :]
    behind = tl.zeros((RAYS,), tl.float32)
    tiles = (longest + SAMPLES - 1) // SAMPLES
    for number in range(tiles):
        place = begin + (tiles - 1 - number) * SAMPLES + column
        own, following = place < end, (place + 1 < end) & (column < SAMPLES - 1)
        along = tl.load(gradient + place, mask=own, other=0.0)
        worth = tl.load(weights + place, mask=own, other=0.0) * along
        next_worth = tl.load(weights + place + 1, mask=following, other=0.0)
        next_worth *= tl.load(gradient + place + 1, mask=following, other=0.0)
        later = behind[:, None] + tl.cumsum(next_worth, axis=1, reverse=True)
        length = tl.load(t_end + place, mask=own, other=0.0) - tl.load(t_start + place, mask=own, other=0.0)
        passed = tl.load(after + place, mask=own, other=0.0)
        tl.store(to_density + place, length * (passed * along - later), mask=own)
        behind += tl.sum(worth, axis=1)


@triton.jit(do_not_specialize=["rays", "count"])
def _sum(
    weights: tl.tensor,  # (S,)
    values: tl.tensor,  # (C, S)
    offsets: tl.tensor,  # (R + 1,) int64
    t_start: tl.tensor,  # (S,)
    t_end: tl.tensor,  # (S,)
    rays: tl.tensor,  # R
    sums: tl.tensor,  # (2 + C, R)
    count: tl.tensor,  # S
    RAYS: tl.constexpr,
    SAMPLES: tl.constexpr,
) -> None:
    """Row 0: sums of w_i times the middle of the interval; row 1: of w_i; row 2 + c: of w_i times values[c, i]."""
    begin, end, longest = _spans(offsets, rays, RAYS)
    row, column = tl.program_id(1), tl.arange(0, SAMPLES)[None, :]
    channel = values + (row - 2).to(tl.int64) * count
    total = tl.zeros((RAYS,), tl.float32)
    for first in range(0, longest, SAMPLES):
        place = begin + first + column
        own = place < end
        middle = own & (row == 0)
        sample = tl.load(t_start + place, mask=middle, other=0.0) + tl.load(t_end + place, mask=middle, other=0.0)
        sample = tl.where(row == 1, 1.0, sample / 2) + tl.load(channel + place, mask=own & (row > 1), other=0.0)
        total += tl.sum(sample * tl.load(weights + place, mask=own, other=0.0), axis=1)
    ray = tl.program_id(0) * RAYS + tl.arange(0, RAYS)
    tl.store(sums + row.to(tl.int64) * rays + ray, total, mask=ray < rays)


@triton.jit(do_not_specialize=["rays", "count"])
def _sum_backward(
    gradient: tl.tensor,  # (2 + C, R)
    weights: tl.tensor,  # (S,)
    values: tl.tensor,  # (C, S)
    ray_of: tl.tensor,  # (S,) int64
    t_start: tl.tensor,  # (S,)
    t_end: tl.tensor,  # (S,)
    to_weights: tl.tensor,  # (S,)
    to_values: tl.tensor,  # (C, S)
    rays: tl.tensor,  # R
    count: tl.tensor,  # S
    C: tl.constexpr,
    LANES: tl.constexpr,
) -> None:
    """w'_i = g_depth t_i + g_opacity + sum over c of g_c v_ci, and v'_ci = w_i g_c, with g of the sample's ray."""
    place = tl.program_id(0) * LANES + tl.arange(0, LANES)
    own = place < count
    ray = tl.load(ray_of + place, mask=own, other=0)
    weight = tl.load(weights + place, mask=own, other=0.0)
    middle = (tl.load(t_start + place, mask=own, other=0.0) + tl.load(t_end + place, mask=own, other=0.0)) / 2
    to_weight = tl.load(gradient + ray, mask=own, other=0.0) * middle
    to_weight += tl.load(gradient + rays + ray, mask=own, other=0.0)
    for c in range(C):
        along = tl.load(gradient + (2 + c) * rays + ray, mask=own, other=0.0)
        number = tl.full((LANES,), c, tl.int64) * count + place
        to_weight += along * tl.load(values + number, mask=own, other=0.0)
        tl.store(to_values + number, along * weight, mask=own)
    tl.store(to_weights + place, to_weight, mask=own)


@triton.jit
def _spans(offsets: tl.tensor, rays: tl.tensor, RAYS: tl.constexpr) -> tl.tuple:
    """First sample of each ray of the program, and the first behind it, as columns; the largest number of samples."""
    ray = tl.program_id(0) * RAYS + tl.arange(0, RAYS)
    begin = tl.load(offsets + ray, mask=ray < rays, other=0)
    end = tl.load(offsets + ray + 1, mask=ray < rays, other=0)
    return begin[:, None], end[:, None], tl.max(end - begin, axis=0).to(tl.int32)


@triton.jit
def _optical_depth(
    density: tl.tensor, t_start: tl.tensor, t_end: tl.tensor, place: tl.tensor, own: tl.tensor
) -> tl.tensor:
    length = tl.load(t_end + place, mask=own, other=0.0) - tl.load(t_start + place, mask=own, other=0.0)
    return tl.load(density + place, mask=own, other=0.0) * length


@triton.jit
def _absorbed(x: tl.tensor) -> tl.tensor:
    """1 - exp(-x), by its series (error 2e-8 of the value) where the difference would cancel; NaN stays NaN."""
    series = x * (1 - x / 2 * (1 - x / 3 * (1 - x / 4 * (1 - x / 5))))
    return tl.where(x < 0.1, series, 1 - tl.exp(-x))
