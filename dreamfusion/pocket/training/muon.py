"""AdamW, with Muon for matrices and kernels (Jordan et al. 2024; Liu et al. 2025, arXiv 2502.16982).

`torch.optim.Muon` accepts only parameters of two dimensions; here the weight of a convolution is flattened to a matrix,
one row for each index of its first dimension. Both rules share one optimizer: its groups, schedule and checkpoint.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from dreamfusion.ops.precision import native_bfloat16

MOMENTUM = 0.95
ITERATIONS = 5  # of Newton and Schulz
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of their polynomial: singular values of about one, quickly
ADAM_SIZE = 0.2  # root mean square of AdamW's updates, over the learning rate (Liu et al. 2025, Eq. 4)


class MuonAdamW(torch.optim.AdamW):
    """AdamW; groups with `muon` true take orthogonalised momentum instead, of the same root mean square.

    So both use one learning rate. Parameters of these groups have at least two dimensions.
    """

    def __init__(self, params: Iterable[Any], **options: Any) -> None:
        """`params` and `options` as for `torch.optim.AdamW`."""
        super().__init__(params, **options)
        self._step_supports_amp_scaling = False  # with float16 the gradients are unscaled before, and bad steps skipped

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group({"muon": False, **param_group})

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Also called for a stored state; AdamW's own has no `muon`."""
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("muon", False)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step; returns the closure's loss, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()  # before the groups are split: it sets the gradients of all to zero
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["muon"]]
        try:
            super().step()
        finally:
            self.param_groups = groups
        for group in groups:
            for parameter in group["params"] if group["muon"] else ():
                if parameter.grad is not None:
                    self._orthogonal_step(parameter, parameter.grad, group["lr"], group["weight_decay"])
        return loss

    def _orthogonal_step(self, parameter: Tensor, gradient: Tensor, rate: float, decay: float) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())  # AdamW reads it from stored states
            state["momentum"] = torch.zeros_like(parameter)
        state["step"] += 1
        momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        update = orthogonalized(torch.lerp(gradient, momentum, MOMENTUM).flatten(1))
        size = ADAM_SIZE * math.sqrt(max(update.shape))
        parameter.mul_(1 - rate * decay).add_(update.view_as(parameter), alpha=-rate * size)


def orthogonalized(matrix: Tensor) -> Tensor:
    """The matrix (A, B) with the singular vectors of this one, and singular values of about one (0.7 to 1.2)."""
    a, b, c = COEFFICIENTS
    wide = matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide / (wide.norm() + 1e-7)
    wide = wide.bfloat16() if native_bfloat16() else wide
    for _ in range(ITERATIONS):
        square = wide @ wide.mT
        wide = a * wide + (b * square + c * square @ square) @ wide
    return (wide.mT if matrix.shape[0] > matrix.shape[1] else wide).to(matrix)
