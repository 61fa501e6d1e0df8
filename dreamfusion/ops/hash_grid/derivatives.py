"""First and second derivatives of the hash encoding, from the three functions that every kernel backend provides.

Letters: positions x (S, 3), table (P,), y = encode(x, table), g the gradient of y (S, W), J = dy/dx, v a direction
(S, 3). A backend is a module with, for x outside [0, 1] clamped and without derivative along the clamped coordinates:

    encode(x, v, table, layout)                y, or J v if v is given -> (S, W)
    table_gradient(x, v, g, tangent, layout)   d/dtable of <g, y> if g is given, plus <tangent, J v> if v is -> (P,)
    position_gradient(x, v, g, table, layout)  d/dx of <g, y>, or of <g, J v> if v is given -> (S, 3)
"""

from types import ModuleType

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from dreamfusion.ops.hash_grid.layout import HashGridLayout


class Encode(torch.autograd.Function):
    """(x, table) -> y."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, positions: Tensor, table: Tensor, layout: HashGridLayout, kernels: ModuleType
    ) -> Tensor:
        ctx.save_for_backward(positions, table)
        ctx.settings = layout, kernels  # type: ignore[attr-defined]
        encoded: Tensor = kernels.encode(positions, None, table, layout)
        return encoded

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        needed = wanted(ctx, 0), wanted(ctx, 1)
        settings = *ctx.settings, needed  # type: ignore[attr-defined]
        return *_EncodeGradient.apply(*ctx.saved_tensors, gradient, *settings), None, None  # type: ignore[attr-defined]


def slope(positions: Tensor, table: Tensor, gradient: Tensor, layout: HashGridLayout, kernels: ModuleType) -> Tensor:
    """J^T g (S, 3), differentiable in table and g; in the positions too only if they need a gradient."""
    to_x: Tensor = _EncodeGradient.apply(positions, table, gradient, layout, kernels, (True, False))[0]
    return to_x


class _EncodeGradient(torch.autograd.Function):
    """(x, table, g) -> (J^T g, dy/dtable^T g), each only if needed: normals need no table gradient."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        positions: Tensor,
        table: Tensor,
        gradient: Tensor,
        layout: HashGridLayout,
        kernels: ModuleType,
        needed: tuple[bool, bool],
    ) -> tuple[Tensor | None, Tensor | None]:
        ctx.save_for_backward(positions, table, gradient)
        ctx.settings = layout, kernels  # type: ignore[attr-defined]
        ctx.set_materialize_grads(False)
        return (
            kernels.position_gradient(positions, None, gradient, table, layout) if needed[0] else None,
            kernels.table_gradient(positions, None, gradient, None, layout) if needed[1] else None,
        )

    @staticmethod
    @once_differentiable
    def backward(
        ctx: FunctionCtx, v: Tensor | None, along_table: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None, None]:
        """Differentiate <v, J^T g> + <u, dy/dtable^T g> = <g, J v> + <g, encode(x, u)>; y is linear in the table."""
        positions, table, gradient = ctx.saved_tensors  # type: ignore[attr-defined]
        layout, kernels = ctx.settings  # type: ignore[attr-defined]
        need_x, need_table, need_g = (wanted(ctx, i) for i in range(3))
        to_x = to_table = to_g = None
        if v is not None:
            to_x = kernels.position_gradient(positions, v, gradient, table, layout) if need_x else None
            to_table = kernels.table_gradient(positions, v, None, gradient, layout) if need_table else None
            to_g = kernels.encode(positions, v, table, layout) if need_g else None
        if along_table is not None:
            if need_x:
                to_x = _add(to_x, kernels.position_gradient(positions, None, gradient, along_table, layout))
            if need_g:
                to_g = _add(to_g, kernels.encode(positions, None, along_table, layout))
        return to_x, to_table, to_g, None, None, None


def inside(positions: Tensor) -> Tensor:
    """(S, 3): whether clamping kept each coordinate; only there does the encoding depend on it."""
    return (positions >= 0) & (positions <= 1)


def wanted(ctx: FunctionCtx, i: int) -> bool:
    """Whether the running backward pass needs the gradient of input i.

    `ctx.needs_input_grad` only says that some pass may need it: normals would then compute an unused scatter.
    """
    if not ctx.needs_input_grad[i]:  # type: ignore[attr-defined]
        return False
    node = ctx.next_functions[i][0]  # type: ignore[attr-defined]
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:  # "a leaf node was passed": a leaf whose gradient `autograd.grad` returns
        return True


def _add(a: Tensor | None, b: Tensor) -> Tensor:
    return b if a is None else a + b
