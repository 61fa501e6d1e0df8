"""`differentiable.visible` and `differentiable.interpolate` with numba: one thread for each view."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamfusion.ops.backend import run_parallel
from dreamfusion.ops.kernel_cache import njit
from dreamfusion.ops.rasterize import RasterMesh, kernels, pack

Array = np.ndarray
_compiled = njit(nogil=True, fastmath=True, error_model="numpy")


def visible(points: Tensor, faces: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """See `differentiable.visible`."""
    surface = pack(RasterMesh(np.zeros((points.shape[1], 3)), faces.numpy()))
    screens = points.numpy().astype(np.float64).transpose(0, 2, 1)
    seen, nearest = np.empty((len(points), height, width), np.int64), np.empty((len(points), height, width), np.float32)

    def one(view: int) -> None:
        x, y, inverse_depth = np.ascontiguousarray(screens[view])
        screen = kernels.Screen(x, y, np.maximum(inverse_depth, 0.0))
        nearest[view], seen[view] = kernels.visible(screen, surface, height, width)

    run_parallel(one, range(len(points)))
    return torch.from_numpy(seen), torch.from_numpy(nearest)


def interpolate(points: Tensor, faces: Tensor, seen: Tensor, attributes: Tensor) -> Tensor:
    """See `differentiable.interpolate`."""
    values: Tensor = _Interpolate.apply(points, faces, seen, attributes)
    return values


class _Interpolate(torch.autograd.Function):
    """Gradients of the points and the attributes, summed in the order of the pixels: equal from run to run."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, faces: Tensor, seen: Tensor, attributes: Tensor) -> Tensor:
        ctx.save_for_backward(points, faces, seen, attributes)
        values = np.zeros((*seen.shape, attributes.shape[1]), np.float32)
        given = _arrays(points, faces, seen, attributes)
        run_parallel(lambda view: _forward(view, *given, values), range(len(points)))
        return torch.from_numpy(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        points, faces, seen, attributes = ctx.saved_tensors
        moved = np.zeros(points.shape, np.float32)
        changed = np.zeros((len(points), *attributes.shape), np.float32)
        given = _arrays(points, faces, seen, attributes)
        outer = gradients[0].contiguous().numpy()
        run_parallel(lambda view: _backward(view, *given, outer, moved, changed), range(len(points)))
        return torch.from_numpy(moved), None, None, torch.from_numpy(changed.sum(0))


def _arrays(*tensors: Tensor) -> list[Array]:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


@_compiled
def _edges(screen: Array, i: int, j: int, k: int, px: float, py: float) -> tuple[float, float, float]:
    xi, yi = screen[i, 0] - px, screen[i, 1] - py
    xj, yj = screen[j, 0] - px, screen[j, 1] - py
    xk, yk = screen[k, 0] - px, screen[k, 1] - py
    return xj * yk - xk * yj, xk * yi - xi * yk, xi * yj - xj * yi


@_compiled
def _forward(view: int, points: Array, faces: Array, seen: Array, attributes: Array, values: Array) -> None:
    screen = points[view]
    for row in range(seen.shape[1]):
        for column in range(seen.shape[2]):
            f = seen[view, row, column]
            if f < 0:
                continue
            i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
            e0, e1, e2 = _edges(screen, i, j, k, column + 0.5, row + 0.5)
            w0, w1, w2 = e0 * screen[i, 2], e1 * screen[j, 2], e2 * screen[k, 2]
            scale = 1.0 / (w0 + w1 + w2)
            for c in range(attributes.shape[1]):
                total = w0 * attributes[i, c] + w1 * attributes[j, c] + w2 * attributes[k, c]
                values[view, row, column, c] = total * scale


@_compiled
def _backward(
    view: int,
    points: Array,
    faces: Array,
    seen: Array,
    attributes: Array,
    outer: Array,
    moved: Array,
    changed: Array,
) -> None:
    screen = points[view]
    for row in range(seen.shape[1]):
        for column in range(seen.shape[2]):
            f = seen[view, row, column]
            if f < 0:
                continue
            i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
            px, py = column + 0.5, row + 0.5
            e0, e1, e2 = _edges(screen, i, j, k, px, py)
            q0, q1, q2 = screen[i, 2], screen[j, 2], screen[k, 2]
            scale = 1.0 / (e0 * q0 + e1 * q1 + e2 * q2)
            w0, w1, w2 = e0 * q0 * scale, e1 * q1 * scale, e2 * q2 * scale
            g0 = g1 = g2 = 0.0
            for c in range(attributes.shape[1]):
                g = outer[view, row, column, c]
                g0 += g * attributes[i, c]
                g1 += g * attributes[j, c]
                g2 += g * attributes[k, c]
                changed[view, i, c] += w0 * g
                changed[view, j, c] += w1 * g
                changed[view, k, c] += w2 * g
            mean = w0 * g0 + w1 * g1 + w2 * g2
            g0, g1, g2 = (g0 - mean) * scale, (g1 - mean) * scale, (g2 - mean) * scale  # of e_i q_i
            moved[view, i, 2] += g0 * e0
            moved[view, j, 2] += g1 * e1
            moved[view, k, 2] += g2 * e2
            g0, g1, g2 = g0 * q0, g1 * q1, g2 * q2  # of e_i
            xi, yi = screen[i, 0] - px, screen[i, 1] - py
            xj, yj = screen[j, 0] - px, screen[j, 1] - py
            xk, yk = screen[k, 0] - px, screen[k, 1] - py
            moved[view, i, 0] += g2 * yj - g1 * yk
            moved[view, i, 1] += g1 * xk - g2 * xj
            moved[view, j, 0] += g0 * yk - g2 * yi
            moved[view, j, 1] += g2 * xi - g0 * xk
            moved[view, k, 0] += g1 * yi - g0 * yj
            moved[view, k, 1] += g0 * xj - g1 * xi
