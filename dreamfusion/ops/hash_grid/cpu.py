"""Hash encoding on the CPU: numba kernels, levels distributed over threads, wrapped for first and second derivatives.

Letters as in kernels.py; y = encode(x, table), g the gradient of y, J = dy/dx. Everything but g and y is float32 in the
shape the caller sees; internally, arrays are feature-major. Bitwise identical for any number of threads.
"""

import sys
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from dreamfusion.ops.backend import parts, run_parallel, spans
from dreamfusion.ops.hash_grid import kernels as hash_kernels
from dreamfusion.ops.hash_grid.layout import HashGridLayout

NO_DIRECTION = np.empty((0, 0), np.float32)


def hash_encode(positions: Tensor, table: Tensor, layout: HashGridLayout) -> Tensor:
    """(S, 3), (P,) -> (S, layout.width), the transpose of a contiguous tensor."""
    encoded: Tensor = _Encode.apply(positions, table, layout)
    return encoded


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, positions: Tensor, table: Tensor, layout: HashGridLayout) -> Tensor:
        ctx.save_for_backward(positions, table)
        ctx.layout = layout  # type: ignore[attr-defined]
        return interpolate(feature_major(positions.clamp(0, 1)), NO_DIRECTION, table, layout)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        positions, table = ctx.saved_tensors  # type: ignore[attr-defined]
        needed = wanted(ctx, 0), wanted(ctx, 1)
        return *_EncodeGradient.apply(positions, table, gradient, ctx.layout, needed), None  # type: ignore[attr-defined]


class _EncodeGradient(torch.autograd.Function):
    """(x, table, g) -> (J^T g, dy/dtable^T g), each only if needed: normals need no scatter."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        positions: Tensor,
        table: Tensor,
        gradient: Tensor,
        layout: HashGridLayout,
        needed: tuple[bool, bool],
    ) -> tuple[Tensor | None, Tensor | None]:
        ctx.save_for_backward(positions, table, gradient)
        ctx.layout = layout  # type: ignore[attr-defined]
        ctx.set_materialize_grads(False)
        x, g = feature_major(positions.clamp(0, 1)), feature_major(gradient)
        to_positions = to_table = None
        if needed[0]:
            to_positions = _position_gradient(x, NO_DIRECTION, g, table, layout) * inside(positions)
        if needed[1]:
            to_table = scatter(x, NO_DIRECTION, g, g, layout)
        return to_positions, to_table

    @staticmethod
    @once_differentiable
    def backward(
        ctx: FunctionCtx, along_positions: Tensor | None, along_table: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        """Differentiate <v, J^T g> + <u, dy/dtable^T g> = <g, J v> + <g, encode(x, u)>; y is linear in the table."""
        positions, table, gradient = ctx.saved_tensors  # type: ignore[attr-defined]
        need_x, need_table, need_g = (wanted(ctx, i) for i in range(3))
        layout = ctx.layout  # type: ignore[attr-defined]
        x, g, kept = feature_major(positions.clamp(0, 1)), feature_major(gradient), inside(positions)
        to_x = to_table = to_g = None
        if along_positions is not None:
            v = feature_major(along_positions * kept)
            to_x = _position_gradient(x, v, g, table, layout) * kept if need_x else None
            to_table = scatter(x, v, np.zeros_like(g), g, layout) if need_table else None
            to_g = interpolate(x, v, table, layout) if need_g else None
        if along_table is not None:
            first = x, NO_DIRECTION
            to_x = _add(to_x, _position_gradient(*first, g, along_table, layout) * kept) if need_x else None
            to_g = _add(to_g, interpolate(*first, along_table, layout)) if need_g else None
        return to_x, to_table, to_g, None, None


def interpolate(
    x: np.ndarray, v: np.ndarray, table: Tensor, layout: HashGridLayout, encoded: Tensor | None = None
) -> Tensor:
    """Return y, or J v if `v` is not empty: (S, layout.width), written to the feature-major `encoded` if given."""
    if encoded is None:
        encoded = torch.empty(layout.width, x.shape[1])
    out, entries, grid, lanes = encoded.numpy(), flat(table), grid_of(layout), (0,) * layout.features
    run_parallel(
        lambda left: hash_kernels.interpolate(x, v, entries, grid, left, lanes, out), levels_of(layout, x.shape[1])
    )
    return encoded.t()


def scatter(x: np.ndarray, v: np.ndarray, g: np.ndarray, jvp_grad: np.ndarray, layout: HashGridLayout) -> Tensor:
    """Gradient of <g, y>, plus <jvp_grad, J v> if `v` is not empty, with respect to the table -> (P,)."""
    out, grid, lanes = _gradient_buffer(layout.parameter_count), grid_of(layout), (0,) * layout.features
    run_parallel(  # the kernel zeroes each level before adding to it
        lambda left: hash_kernels.scatter(x, v, g, jvp_grad, grid, left, lanes, out), levels_of(layout, x.shape[1])
    )
    return torch.from_numpy(out)


_buffers: dict[int, np.ndarray] = {}


@cache
def _single_reference_count() -> int:
    """`sys.getrefcount` of an array held by one variable; differs between Python versions."""
    array = np.empty(0)
    return sys.getrefcount(array)


def _gradient_buffer(count: int) -> np.ndarray:
    """Return (count,) float32 for a gradient, reusing the last buffer if nothing else references it.

    Reallocating the buffer for each step fragmented the heap: at 2^19 the process grew by the buffer's size.
    """
    buffer = _buffers.pop(count, None)
    if buffer is None or sys.getrefcount(buffer) > _single_reference_count():  # tensors that share its memory count
        buffer = np.empty(count, np.float32)
    _buffers[count] = buffer
    return buffer


def _position_gradient(x: np.ndarray, v: np.ndarray, g: np.ndarray, table: Tensor, layout: HashGridLayout) -> Tensor:
    """Gradient of <g, y>, or of <g, J v>, with respect to x -> (S, 3). A task is a span of points, all levels."""
    gradient = torch.zeros(3, x.shape[1])
    out, entries, grid, lanes = gradient.numpy(), flat(table), grid_of(layout), (0,) * layout.features
    run_parallel(
        lambda span: hash_kernels.position_gradient(x, v, g, entries, grid, lanes, *span, out),
        spans(x.shape[1], x.shape[1], hash_kernels.BLOCK),
    )
    return gradient.t()


@cache
def grid_of(layout: HashGridLayout) -> hash_kernels.Grid:
    return hash_kernels.Grid(
        scale=np.array(layout.scales, np.float32),
        resolution=np.array(layout.resolutions, np.uint32),
        hashed=~np.array(layout.dense),
        begin=np.array((*layout.offsets, sum(layout.sizes)), np.int64) * layout.features,
    )


def levels_of(layout: HashGridLayout, count: int) -> list[np.ndarray]:
    """One shared counter of remaining levels, repeated for each task: slow threads take fewer levels."""
    return [np.array([layout.levels], np.int64)] * min(parts(count), layout.levels)


def flat(table: Tensor) -> np.ndarray:
    array: np.ndarray = table.detach().contiguous().numpy()
    return array


def feature_major(rows: Tensor) -> np.ndarray:
    """(S, n) -> (n, S) contiguous; without a copy if the rows are the transpose of such a tensor."""
    array: np.ndarray = rows.detach().t().contiguous().numpy()
    return array


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
