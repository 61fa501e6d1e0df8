"""Hash-grid field as a composition of single operations, on every device; the reference of the fused kernels.

As differentiable as the encoding: to any order with the torch reference.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from dreamfusion.ops import hash_grid
from dreamfusion.ops.backend import implementation
from dreamfusion.ops.hash_grid.derivatives import slope
from dreamfusion.ops.hash_grid.layout import HashGridLayout


def hash_field(
    positions: Tensor,
    table: Tensor,
    hidden_weight: Tensor,
    output_weight: Tensor,
    layout: HashGridLayout,
    with_input_gradient: bool,
    backend: str | None,
) -> tuple[Tensor, Tensor | None]:
    """See `dreamfusion.ops.hash_field.hash_field`; `backend` is that of the encoding."""

    def network(x: Tensor) -> Tensor:
        output = F.linear(
            torch.relu(F.linear(hash_grid.hash_encode(x, table, layout, backend), hidden_weight)), output_weight
        )
        return output.to(x.dtype)  # with torch.autocast the products are in half precision

    if not with_input_gradient:
        return network(positions), None
    kernels = implementation(hash_grid.__name__, "hash_encode", positions.device, backend)
    if hasattr(kernels, "position_gradient") and not positions.requires_grad and positions.dtype == torch.float32:
        # As below, but no pass computes a gradient of the positions for `backward`, which drops it.
        hidden = F.linear(hash_grid.hash_encode(positions, table, layout, backend), hidden_weight)
        output = F.linear(torch.relu(hidden), output_weight).to(positions.dtype)
        to_encoding = ((hidden > 0) * output_weight[0]) @ hidden_weight  # d o_0 / d y
        return output, slope(positions, table, to_encoding.to(positions.dtype), layout, kernels)
    grad_wanted = torch.is_grad_enabled()
    with torch.enable_grad():
        x = positions if positions.requires_grad else positions.detach().requires_grad_()
        output = network(x)
        (input_gradient,) = torch.autograd.grad(output[:, 0].sum(), x, create_graph=grad_wanted)
    return (output, input_gradient) if grad_wanted else (output.detach(), input_gradient)
