"""Compositing on the CPU: numba loops over rays for the forward and backward pass, wrapped for autograd.

Results are bitwise identical for any number of threads.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from dreamfusion.ops.backend import run_parallel, spans
from dreamfusion.ops.kernel_cache import njit
from dreamfusion.types import RaySamples

Array = np.ndarray
_compiled = njit(nogil=True, error_model="numpy")


class _Rays(NamedTuple):
    """`RaySamples` as arrays: the samples of ray r are `offsets[r]:offsets[r + 1]`."""

    offsets: Array  # (R + 1,) int64
    t_start: Array  # (S,)
    t_end: Array  # (S,)


def composite(density: Tensor, samples: RaySamples) -> Tensor:
    """(S,) -> (S,); see `dreamfusion.ops.composite.composite`."""
    weights: Tensor = _Composite.apply(density, samples)
    return weights


def accumulate(weights: Tensor, values: Sequence[Tensor], samples: RaySamples) -> tuple[Tensor, Tensor, Tensor]:
    """See `dreamfusion.ops.composite.accumulate`."""
    sums: Tensor = _Accumulate.apply(weights, samples, *values)
    return sums[2:].t(), sums[:1].t(), sums[1:2].t()


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, density: Tensor, samples: RaySamples) -> Tensor:
        weights, after = torch.empty(len(samples)), torch.empty(len(samples))
        arrays = _arrays(density, weights, after)
        _over_rays(lambda rays, begin, end: _weigh(rays, *arrays, begin, end), samples)
        ctx.save_for_backward(weights, after)
        ctx.samples = samples  # type: ignore[attr-defined]
        return weights

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        weights, after = ctx.saved_tensors  # type: ignore[attr-defined]
        samples: RaySamples = ctx.samples  # type: ignore[attr-defined]
        to_density = torch.empty(len(samples))
        arrays = _arrays(weights, after, gradient, to_density)
        _over_rays(lambda rays, begin, end: _weigh_backward(rays, *arrays, begin, end), samples)
        return to_density, None


class _Accumulate(torch.autograd.Function):
    """Depth, opacity and the sums of the values as rows: (2 + C, R)."""

    @staticmethod
    def forward(ctx: FunctionCtx, weights: Tensor, samples: RaySamples, *values: Tensor) -> Tensor:
        rows = [value.detach().t().contiguous() for value in values]
        sums = torch.empty(2 + sum(map(len, rows)), len(samples.offsets) - 1)
        own = _arrays(weights, sums[:2])
        parts = [_arrays(weights, row, to) for row, to in _with_rows_of(sums, rows)]

        def run(rays: _Rays, begin: int, end: int) -> None:
            _sum_intervals(rays, *own, begin, end)
            for arrays in parts:
                _sum(rays, *arrays, begin, end)

        _over_rays(run, samples)
        ctx.save_for_backward(weights, *rows)
        ctx.samples = samples  # type: ignore[attr-defined]
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weights, *rows = ctx.saved_tensors  # type: ignore[attr-defined]
        samples: RaySamples = ctx.samples  # type: ignore[attr-defined]
        gradient, to_weights = gradient.contiguous(), torch.empty_like(weights)
        to_rows = [torch.empty_like(row) for row in rows]
        own = _arrays(gradient[:2], to_weights)
        parts = [
            _arrays(along, weights, row, to_weights, to_row)
            for (row, along), to_row in zip(_with_rows_of(gradient, rows), to_rows, strict=True)
        ]

        def run(rays: _Rays, begin: int, end: int) -> None:
            _sum_intervals_backward(rays, *own, begin, end)
            for arrays in parts:
                _sum_backward(rays, *arrays, begin, end)

        _over_rays(run, samples)
        return to_weights, None, *(row.t() for row in to_rows)


def _with_rows_of(sums: Tensor, values: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Pair each (C_n, S) of `values` with its rows of `sums`, which start at the third."""
    return list(zip(values, sums[2:].split([len(value) for value in values]), strict=True))


@_compiled
def _weigh(rays: _Rays, density: Array, weights: Array, after: Array, begin: int, end: int) -> None:
    """Write w_i = T_i - T_{i+1}, and T_{i+1} for the backward pass. T is float64: the difference cancels."""
    offsets, t_start, t_end = rays
    for r in range(begin, end):
        depth, transmittance = 0.0, 1.0
        for i in range(offsets[r], offsets[r + 1]):
            depth += np.float64(density[i]) * np.float64(t_end[i] - t_start[i])
            following = np.exp(-depth)
            weights[i] = transmittance - following
            after[i] = following
            transmittance = following


@_compiled
def _weigh_backward(
    rays: _Rays, weights: Array, after: Array, gradient: Array, to_density: Array, begin: int, end: int
) -> None:
    """dL/ddensity_i = dt_i (T_{i+1} g_i - sum_{j>i} w_j g_j), from the last sample to the first."""
    offsets, t_start, t_end = rays
    for r in range(begin, end):
        behind = 0.0
        for i in range(offsets[r + 1] - 1, offsets[r] - 1, -1):
            g = np.float64(gradient[i])
            to_density[i] = np.float64(t_end[i] - t_start[i]) * (after[i] * g - behind)
            behind += weights[i] * g


@_compiled
def _sum_intervals(rays: _Rays, weights: Array, sums: Array, begin: int, end: int) -> None:
    """Sum depth and opacity."""
    offsets, t_start, t_end = rays
    for r in range(begin, end):
        depth, opacity = 0.0, 0.0
        for i in range(offsets[r], offsets[r + 1]):
            depth += np.float64(weights[i]) * (np.float64(t_start[i]) + np.float64(t_end[i]))
            opacity += np.float64(weights[i])
        sums[0, r], sums[1, r] = depth / 2, opacity


@_compiled
def _sum_intervals_backward(rays: _Rays, gradient: Array, to_weights: Array, begin: int, end: int) -> None:
    offsets, t_start, t_end = rays
    for r in range(begin, end):
        half, along = gradient[0, r] / np.float32(2), gradient[1, r]
        for i in range(offsets[r], offsets[r + 1]):
            to_weights[i] = half * (t_start[i] + t_end[i]) + along


@_compiled
def _sum(rays: _Rays, weights: Array, values: Array, sums: Array, begin: int, end: int) -> None:
    """Sum three rows at a time, as independent accumulators hide the latency of the additions."""
    offsets = rays.offsets
    rows = values.shape[0]
    for c in range(0, rows, 3):
        second, third = min(c + 1, rows - 1), min(c + 2, rows - 1)
        for r in range(begin, end):
            a, b, d = 0.0, 0.0, 0.0
            for i in range(offsets[r], offsets[r + 1]):
                weight = np.float64(weights[i])
                a += weight * np.float64(values[c, i])
                b += weight * np.float64(values[second, i])
                d += weight * np.float64(values[third, i])
            sums[c, r], sums[second, r], sums[third, r] = a, b, d


@_compiled
def _sum_backward(
    rays: _Rays, g: Array, weights: Array, values: Array, to_weights: Array, to_values: Array, begin: int, end: int
) -> None:
    """Add g_c v_ic to w'_i, with g of the sample's ray, and write v'_ic = w_i g_c."""
    offsets = rays.offsets
    for c in range(values.shape[0]):
        for r in range(begin, end):
            along = g[c, r]
            for i in range(offsets[r], offsets[r + 1]):
                to_weights[i] += along * values[c, i]
                to_values[c, i] = along * weights[i]


def _over_rays(loop: Callable[[_Rays, int, int], None], samples: RaySamples) -> None:
    """Run a loop over all rays, split among threads if there are many samples."""
    rays = _Rays(*_arrays(samples.offsets, samples.t_start, samples.t_end))
    run_parallel(lambda span: loop(rays, *span), spans(len(rays.offsets) - 1, len(samples)))


def _arrays(*tensors: Tensor) -> tuple[Array, ...]:
    return tuple(tensor.detach().contiguous().numpy() for tensor in tensors)
