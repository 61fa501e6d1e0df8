"""Compositing on the CPU: one numba loop per ray and direction, wrapped for autograd.

The same bits for any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from dreamfusion.ops.backend import run_parallel, spans
from dreamfusion.types import RaySamples

_compiled = njit(nogil=True, error_model="numpy", cache=True)


def composite(density: Tensor, samples: RaySamples) -> Tensor:
    """(S,) -> (S,); see `dreamfusion.ops.composite.composite`."""
    weights: Tensor = _Composite.apply(density, samples)
    return weights


def accumulate(weights: Tensor, values: Tensor, samples: RaySamples) -> Tensor:
    """(S,), (S, C) -> (R, C); see `dreamfusion.ops.composite.accumulate`."""
    sums: Tensor = _Accumulate.apply(weights, values, samples)
    return sums


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, density: Tensor, samples: RaySamples) -> Tensor:
        weights, after = torch.empty(len(samples)), torch.empty(len(samples))
        arrays = _arrays(density, samples.t_start, samples.t_end, samples.offsets, weights, after)
        _over_rays(lambda begin, end: _weigh(*arrays, begin, end), samples)
        ctx.save_for_backward(weights, after)
        ctx.samples = samples  # type: ignore[attr-defined]
        return weights

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        weights, after = ctx.saved_tensors  # type: ignore[attr-defined]
        samples: RaySamples = ctx.samples  # type: ignore[attr-defined]
        to_density = torch.empty(len(samples))
        arrays = _arrays(weights, after, samples.t_start, samples.t_end, samples.offsets, gradient, to_density)
        _over_rays(lambda begin, end: _weigh_backward(*arrays, begin, end), samples)
        return to_density, None


class _Accumulate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, weights: Tensor, values: Tensor, samples: RaySamples) -> Tensor:
        sums = torch.empty(len(samples.offsets) - 1, values.shape[1])
        arrays = _arrays(weights, values, samples.offsets, sums)
        _over_rays(lambda begin, end: _sum(*arrays, begin, end), samples)
        ctx.save_for_backward(weights, values)
        ctx.samples = samples  # type: ignore[attr-defined]
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        weights, values = ctx.saved_tensors  # type: ignore[attr-defined]
        samples: RaySamples = ctx.samples  # type: ignore[attr-defined]
        to_weights, to_values = torch.empty_like(weights), torch.empty(values.shape)
        arrays = _arrays(gradient, weights, values, samples.offsets, to_weights, to_values)
        _over_rays(lambda begin, end: _sum_backward(*arrays, begin, end), samples)
        return to_weights, to_values, None


@_compiled
def _weigh(
    density: np.ndarray,
    t_start: np.ndarray,
    t_end: np.ndarray,
    offsets: np.ndarray,
    weights: np.ndarray,
    after: np.ndarray,
    begin: int,
    end: int,
) -> None:
    """w_i = T_i - T_{i+1}, and T_{i+1}, which the backward pass wants. T is float64: the difference cancels."""
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
    weights: np.ndarray,
    after: np.ndarray,
    t_start: np.ndarray,
    t_end: np.ndarray,
    offsets: np.ndarray,
    gradient: np.ndarray,
    to_density: np.ndarray,
    begin: int,
    end: int,
) -> None:
    """dL/ddensity_i = dt_i (T_{i+1} g_i - sum_{j>i} w_j g_j), from the far end of the ray."""
    for r in range(begin, end):
        behind = 0.0
        for i in range(offsets[r + 1] - 1, offsets[r] - 1, -1):
            g = np.float64(gradient[i])
            to_density[i] = np.float64(t_end[i] - t_start[i]) * (after[i] * g - behind)
            behind += weights[i] * g


@_compiled
def _sum(weights: np.ndarray, values: np.ndarray, offsets: np.ndarray, sums: np.ndarray, begin: int, end: int) -> None:
    for r in range(begin, end):
        for c in range(values.shape[1]):
            total = 0.0
            for i in range(offsets[r], offsets[r + 1]):
                total += np.float64(weights[i]) * np.float64(values[i, c])
            sums[r, c] = total


@_compiled
def _sum_backward(
    gradient: np.ndarray,
    weights: np.ndarray,
    values: np.ndarray,
    offsets: np.ndarray,
    to_weights: np.ndarray,
    to_values: np.ndarray,
    begin: int,
    end: int,
) -> None:
    """w'_i = sum over c of g_c v_ic and v'_ic = w_i g_c, g of the sample's ray: both in a pass, one costs no more."""
    for r in range(begin, end):
        for i in range(offsets[r], offsets[r + 1]):
            total = np.float32(0)
            for c in range(values.shape[1]):
                total += gradient[r, c] * values[i, c]
                to_values[i, c] = gradient[r, c] * weights[i]
            to_weights[i] = total


def _over_rays(loop: Callable[[int, int], None], samples: RaySamples) -> None:
    """Run a loop over all rays, in parts if there are many samples."""
    run_parallel(lambda span: loop(*span), spans(len(samples.offsets) - 1, len(samples)))


def _arrays(*tensors: Tensor) -> tuple[np.ndarray, ...]:
    return tuple(tensor.detach().contiguous().numpy() for tensor in tensors)
