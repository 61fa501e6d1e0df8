"""Hash encoding on the CPU: numba kernels, levels distributed over threads; the backend functions of derivatives.py.

Letters as there. Arrays of the kernels are feature-major. Bitwise identical for any number of threads.
"""

import sys
from functools import cache

import numpy as np
import torch
from torch import Tensor

from dreamfusion.ops.backend import parts, run_parallel, spans
from dreamfusion.ops.hash_grid import kernels as hash_kernels
from dreamfusion.ops.hash_grid.derivatives import Encode, inside
from dreamfusion.ops.hash_grid.layout import HashGridLayout

NO_DIRECTION = np.empty((0, 0), np.float32)


def hash_encode(positions: Tensor, table: Tensor, layout: HashGridLayout) -> Tensor:
    """(S, 3), (P,) -> (S, layout.width), the transpose of a contiguous tensor."""
    encoded: Tensor = Encode.apply(positions, table, layout, sys.modules[__name__])
    return encoded


def encode(positions: Tensor, v: Tensor | None, table: Tensor, layout: HashGridLayout) -> Tensor:
    """See `derivatives`."""
    return interpolate(*_coordinates(positions, v), table, layout)


def table_gradient(
    positions: Tensor, v: Tensor | None, gradient: Tensor | None, tangent: Tensor | None, layout: HashGridLayout
) -> Tensor:
    """See `derivatives`."""
    both = [feature_major(each) for each in (gradient, tangent) if each is not None]
    g = both[0] if gradient is not None else np.zeros_like(both[0])
    return scatter(*_coordinates(positions, v), g, both[-1], layout)


def position_gradient(
    positions: Tensor, v: Tensor | None, gradient: Tensor, table: Tensor, layout: HashGridLayout
) -> Tensor:
    """See `derivatives`. A task is a span of points, all levels."""
    (x, direction), g = _coordinates(positions, v), feature_major(gradient)
    to_x = torch.zeros(3, x.shape[1])
    out, entries, grid, lanes = to_x.numpy(), flat(table), grid_of(layout), (0,) * layout.features
    run_parallel(
        lambda span: hash_kernels.position_gradient(x, direction, g, entries, grid, lanes, *span, out),
        spans(x.shape[1], x.shape[1], hash_kernels.BLOCK),
    )
    return to_x.t() * inside(positions)


def _coordinates(positions: Tensor, v: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    """Clamped positions and the direction (0 where clamped) as (3, S), the latter empty if there is none."""
    return feature_major(positions.clamp(0, 1)), NO_DIRECTION if v is None else feature_major(v * inside(positions))


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
