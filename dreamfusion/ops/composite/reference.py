"""Torch reference of compositing: segmented sums as differences of one running sum."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dreamfusion.ops.backend import widest_float
from dreamfusion.types import RaySamples


def composite(density: Tensor, samples: RaySamples) -> Tensor:
    """(S,) -> (S,); see `dreamfusion.ops.composite.composite`."""
    depth = density * (samples.t_end - samples.t_start)  # optical depth
    running = _running_sum(depth)  # (S + 1,) over all rays; float64, as float32 would lose precision in the last rays
    before = running[:-1] - running[samples.offsets[samples.ray]]
    return torch.exp(-before).to(density.dtype) * -torch.expm1(-depth)


def accumulate(weights: Tensor, values: Sequence[Tensor], samples: RaySamples) -> tuple[Tensor, Tensor, Tensor]:
    """See `dreamfusion.ops.composite.accumulate`. Deterministic, as it uses no atomics."""
    middle = (samples.t_start + samples.t_end)[:, None] / 2
    running = _running_sum(weights[:, None] * torch.cat((*values, middle, torch.ones_like(middle)), dim=-1))
    sums = (running[samples.offsets[1:]] - running[samples.offsets[:-1]]).to(weights.dtype)
    return sums[:, :-2], sums[:, -2:-1], sums[:, -1:]


def _running_sum(rows: Tensor) -> Tensor:
    """(S, ...) -> (S + 1, ...): exclusive prefix sums of the rows, and the total."""
    total = rows.to(widest_float(rows.device)).cumsum(0)  # cumsum(dtype=...) would sum the gradient in float32
    return torch.cat((torch.zeros_like(total[:1]) if len(total) else total.new_zeros(1, *rows.shape[1:]), total))
