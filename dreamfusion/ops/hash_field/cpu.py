"""Hash-grid field on the CPU: two passes over the table in each direction, the network in blocks of positions.

Letters: x position, y = encode(x), J = dy/dx; z = W1 y, m = [z > 0], h = m z, o = W2 h. The input gradient of o_0 is
n = J^T r, with r = d o_0 / d y = W1^T (m W2[0]). For upstream gradients (o', n') the backward pass computes
    h' = W2^T o',  y' = W1^T (m h'),  b = J n'  (the gradient of r),
    W1' = (m h') y^T + diag(W2[0]) Q,  W2' = o' h^T, and W2[0]' += rowsum(W1 Q),  Q = sum over s of m b^T,
    table' = scatter of w y' + (n' . grad w) r, with w the trilinear weights.
All arrays are feature-major. J is kept from the forward pass (3 W floats a position): reading it twice costs less than
two more gathers from the table. The hidden layer is recomputed.
"""

from types import ModuleType

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from dreamfusion.ops.backend import run_parallel, spans, sum_spans
from dreamfusion.ops.hash_field import network as network_kernels
from dreamfusion.ops.hash_field import network_bfloat16 as network_kernels_bfloat16
from dreamfusion.ops.hash_grid import kernels as hash_kernels
from dreamfusion.ops.hash_grid.cpu import (
    NO_DIRECTION,
    feature_major,
    flat,
    grid_of,
    interpolate,
    levels_of,
    scatter,
)
from dreamfusion.ops.hash_grid.derivatives import inside, wanted
from dreamfusion.ops.hash_grid.layout import HashGridLayout
from dreamfusion.ops.kernel_cache import njit

_compiled = njit(nogil=True, fastmath=True, error_model="numpy")

NETWORKS = {"float32": network_kernels, "bfloat16": network_kernels_bfloat16}


class HashField(torch.autograd.Function):
    """`dreamfusion.ops.hash_field.hash_field` with a network of NETWORKS, for positions that need no gradient."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        positions: Tensor,
        table: Tensor,
        hidden_weight: Tensor,
        output_weight: Tensor,
        layout: HashGridLayout,
        with_input_gradient: bool,
        network: ModuleType,
    ) -> tuple[Tensor, Tensor | None]:
        ctx.set_materialize_grads(False)
        ctx.layout, ctx.network = layout, network  # type: ignore[attr-defined]
        x = torch.from_numpy(feature_major(positions))
        low, high = torch.aminmax(x) if x.numel() else (0, 1)
        # The input gradient is 0 where clamping changes a coordinate; empty: nowhere.
        kept = x.new_empty(0) if low >= 0 and high <= 1 else inside(x)
        x = x.clamp(0, 1) if kept.numel() else x
        y = network.features(layout.width, x.shape[1])
        if not with_input_gradient:
            interpolate(x.numpy(), NO_DIRECTION, table, layout, y)
            ctx.save_for_backward(x, kept, table, hidden_weight, output_weight, y)
            return _network(y, hidden_weight, output_weight, None, network).t(), None
        jacobian = _interpolate_jacobian(x.numpy(), table, layout, y)
        grad_y = torch.empty_like(jacobian[0])
        output = _network(y, hidden_weight, output_weight, grad_y, network)
        input_gradient = _vjp(jacobian, grad_y)
        if kept.numel():
            input_gradient *= kept
        ctx.save_for_backward(x, kept, table, hidden_weight, output_weight, y, jacobian, grad_y)
        return output.t(), input_gradient.t()

    @staticmethod
    @once_differentiable
    def backward(
        ctx: FunctionCtx, grad_output: Tensor | None, grad_input_gradient: Tensor | None
    ) -> tuple[None, Tensor | None, Tensor | None, Tensor | None, None, None, None]:
        x, kept, _, hidden_weight, output_weight, y, *saved = ctx.saved_tensors  # type: ignore[attr-defined]
        need_table, need_weights = wanted(ctx, 1), wanted(ctx, 2) or wanted(ctx, 3)
        to_output = x.new_zeros(len(output_weight), x.shape[1]) if grad_output is None else grad_output.t().contiguous()
        v, jvp, grad_y = NO_DIRECTION, None, torch.from_numpy(NO_DIRECTION)
        if grad_input_gradient is not None:
            jacobian, grad_y = saved
            direction = grad_input_gradient.t() * kept if kept.numel() else grad_input_gradient.t().contiguous()
            v, jvp = direction.numpy(), _jvp(jacobian, direction) if need_weights else None
        network = ctx.network  # type: ignore[attr-defined]
        to_y, to_hidden, to_out = _network_gradient(
            y, hidden_weight, output_weight, to_output, jvp, need_weights, network
        )
        to_table = None
        if need_table:
            to_table = scatter(x.numpy(), v, to_y.numpy(), grad_y.numpy(), ctx.layout)  # type: ignore[attr-defined]
        return None, to_table, to_hidden, to_out, None, None, None


def _network(
    y: Tensor, hidden_weight: Tensor, output_weight: Tensor, grad_y: Tensor | None, network: ModuleType
) -> Tensor:
    """y (W, S) -> o (O, S); fills `grad_y` (W, S) with the gradient of o_0 with respect to y."""
    output = torch.empty(len(output_weight), y.shape[1])
    hidden, out = hidden_weight.detach().numpy(), output_weight.detach().numpy()
    weights = network_kernels.Weights(
        network.operand(hidden, network.UNITS, network.FEATURES),
        network.operand((hidden * out[0, :, None]).T, network.FEATURES, network.UNITS),
        network_kernels.padded(out, network_kernels.TILE, network.UNITS),
    )
    arrays = y.numpy(), weights, output.numpy(), NO_DIRECTION if grad_y is None else grad_y.numpy()
    run_parallel(lambda span: network.forward(*arrays, *span), _spans(y))
    return output


def _network_gradient(
    y: Tensor,
    hidden_weight: Tensor,
    output_weight: Tensor,
    to_output: Tensor,
    jvp: Tensor | None,
    need_weights: bool,
    network: ModuleType,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """o' (O, S) and b = `jvp` (W, S) -> y' (W, S), and W1' and W2' if they are needed."""
    to_y = torch.empty_like(y)
    hidden, out = hidden_weight.detach().numpy(), output_weight.detach().numpy()
    output_t = network_kernels.padded(out.T, network.UNITS, network_kernels.TILE)
    weights = network_kernels.Weights(
        network.operand(hidden, network.UNITS, network.FEATURES),
        network.operand(hidden.T, network.FEATURES, network.UNITS),
        output_t,
    )
    arrays = y.numpy(), weights, to_output.numpy(), NO_DIRECTION if jvp is None else jvp.numpy(), to_y.numpy()
    tasks = sum_spans(y.shape[1], network_kernels.BLOCK)
    # Partial sums per task of (m h') y^T, o' h^T and Q.
    hidden_shape = len(output_t), -(-hidden.shape[1] // network.FEATURES) * network.FEATURES
    nothing = 0 if not need_weights else None
    sums = [np.zeros((len(tasks), *shape), np.float32) for shape in (hidden_shape, output_t.shape[::-1], hidden_shape)]

    def run(task: int) -> None:
        own = network_kernels.Sums(*(each[task, :nothing] for each in sums))
        network.backward(*arrays, own, *tasks[task])

    run_parallel(run, range(len(tasks)))
    if not need_weights:
        return to_y, None, None
    to_hidden, to_out, q = (torch.from_numpy(each.sum(0)) for each in sums)
    (o, h), w = output_weight.shape, hidden_weight.shape[1]
    to_hidden, to_out, q = to_hidden[:h, :w], to_out[:o, :h], q[:h, :w]
    if jvp is not None:
        to_hidden += output_weight[0, :, None] * q
        to_out[0] += (hidden_weight * q).sum(1)
    return to_y, to_hidden, to_out


def _spans(y: Tensor) -> list[tuple[int, int]]:
    return spans(y.shape[1], y.shape[1], network_kernels.BLOCK)


def _interpolate_jacobian(x: np.ndarray, table: Tensor, layout: HashGridLayout, y: Tensor) -> Tensor:
    """Fill y (W, S) and return J (3, W, S)."""
    jacobian = torch.empty(3, layout.width, x.shape[1])
    out, to, entries, grid, lanes = y.numpy(), jacobian.numpy(), flat(table), grid_of(layout), (0,) * layout.features
    run_parallel(
        lambda left: hash_kernels.interpolate_jacobian(x, entries, grid, left, lanes, out, to),
        levels_of(layout, x.shape[1]),
    )
    return jacobian


def _vjp(jacobian: Tensor, grad_y: Tensor) -> Tensor:
    """J^T r: (3, W, S), (W, S) -> (3, S)."""
    out = grad_y.new_zeros(3, grad_y.shape[1])
    arrays = jacobian.numpy(), grad_y.numpy(), out.numpy()
    run_parallel(lambda span: _vjp_span(*arrays, *span), spans(grad_y.shape[1], grad_y.shape[1], hash_kernels.BLOCK))
    return out


def _jvp(jacobian: Tensor, direction: Tensor) -> Tensor:
    """J v: (3, W, S), (3, S) -> (W, S)."""
    out = torch.empty_like(jacobian[0])
    arrays = jacobian.numpy(), direction.numpy(), out.numpy()
    run_parallel(lambda span: _jvp_span(*arrays, *span), spans(out.shape[1], out.shape[1], hash_kernels.BLOCK))
    return out


@_compiled
def _vjp_span(jacobian: np.ndarray, grad_y: np.ndarray, out: np.ndarray, begin: int, end: int) -> None:
    for start in range(begin, end, 1024):  # the sums stay in the cache
        stop = min(start + 1024, end)
        for f in range(grad_y.shape[0]):
            row = grad_y[f, start:stop]
            for d in range(3):
                along, total = jacobian[d, f, start:stop], out[d, start:stop]
                for s in range(stop - start):
                    total[s] += along[s] * row[s]


@_compiled
def _jvp_span(jacobian: np.ndarray, direction: np.ndarray, out: np.ndarray, begin: int, end: int) -> None:
    for start in range(begin, end, 1024):  # the direction stays in the cache
        stop = min(start + 1024, end)
        x, y, z = direction[0, start:stop], direction[1, start:stop], direction[2, start:stop]
        for f in range(out.shape[0]):
            row = out[f, start:stop]
            along_x, along_y = jacobian[0, f, start:stop], jacobian[1, f, start:stop]
            along_z = jacobian[2, f, start:stop]
            for s in range(stop - start):
                row[s] = along_x[s] * x[s] + along_y[s] * y[s] + along_z[s] * z[s]
