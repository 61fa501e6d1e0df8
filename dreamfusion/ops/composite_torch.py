"""Compositing in plain torch: segmented sums as differences of one running sum. The reference."""

from __future__ import annotations

import torch
from torch import Tensor

from dreamfusion.ops.backend import widest_float
from dreamfusion.types import RaySamples


def composite(density: Tensor, samples: RaySamples) -> Tensor:
    """(S,) -> (S,); see `dreamfusion.ops.composite.composite`."""
    depth = density * (samples.t_end - samples.t_start)  # optical
    running = _running_sum(depth)  # (S + 1,) over all rays: in float64, or the first rays would blur the last
    before = running[:-1] - running[samples.offsets[samples.ray]]
    return torch.exp(-before).to(density.dtype) * -torch.expm1(-depth)


def accumulate(weights: Tensor, values: Tensor, samples: RaySamples) -> Tensor:
    """(S,), (S, C) -> (R, C); see `dreamfusion.ops.composite.accumulate`. Without atomics, hence deterministic."""
    running = _running_sum(weights[:, None] * values)
    return (running[samples.offsets[1:]] - running[samples.offsets[:-1]]).to(values.dtype)


def _running_sum(rows: Tensor) -> Tensor:
    """(S, ...) -> (S + 1, ...): the sum of the rows before each, and of all."""
    total = rows.cumsum(0, dtype=widest_float(rows.device))
    return torch.cat((torch.zeros_like(total[:1]) if len(total) else total.new_zeros(1, *rows.shape[1:]), total))
