"""`render_feature_volume` on the CPU: a numba kernel per pass that interpolates, composites and sums ray by ray.

Threads split rays in the forward pass and volumes in the backward pass, so results are bitwise independent of their
number. A ray ends where the transmittance of every head is below DARK: a bound on the error of its sums.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from dreamfusion.ops.backend import run_parallel, spans
from dreamfusion.ops.kernel_cache import njit

Array = np.ndarray
DARK = np.float32(1e-5)


def render_feature_volume(volume: Tensor, points: Tensor, heads: int) -> Tensor:
    """(G, N, N, N, H (1 + F)), (G, R, D, 3) -> (G, R, H (2 + F))."""
    seen: Tensor = _RenderFeatureVolume.apply(volume, points, heads)
    return seen


class _RenderFeatureVolume(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, volume: Tensor, points: Tensor, heads: int) -> Tensor:
        volume, points = volume.detach().contiguous(), points.detach().contiguous()
        ctx.save_for_backward(volume, points)
        ctx.heads = heads  # type: ignore[attr-defined]
        seen = torch.empty(*points.shape[:2], volume.shape[4] + heads)
        arrays = volume.numpy(), points.numpy(), seen.numpy()
        count = points.shape[0] * points.shape[1]
        run_parallel(lambda span: _forward(*arrays, heads, *span), spans(count, count * points.shape[2]))
        return seen

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None]:
        volume, points = ctx.saved_tensors  # type: ignore[attr-defined]
        heads = ctx.heads  # type: ignore[attr-defined]
        to_volume = torch.zeros_like(volume)
        arrays = volume.numpy(), points.numpy(), gradient.contiguous().numpy(), to_volume.numpy()
        size = points.shape[0] * points.shape[1] * points.shape[2]
        run_parallel(lambda span: _backward(*arrays, heads, *span), spans(len(points), size))
        return to_volume, None, None


@njit(nogil=True, fastmath={"contract", "nsz", "arcp"}, inline="always")
def _outside(point: Array) -> bool:
    return not (abs(point[0]) <= 1 and abs(point[1]) <= 1 and abs(point[2]) <= 1)


@njit(nogil=True, fastmath={"contract", "nsz", "arcp"}, inline="always")
def _between(x: float, n: int) -> tuple[int, int, np.float32]:
    """Neighbouring voxels of a coordinate on one axis, and the weight of the upper one; clamped at the faces."""
    place = min(max((x + 1) * 0.5 * n - 0.5, 0.0), n - 1.0)
    low = int(place)
    return low, min(low + 1, n - 1), np.float32(place - low)


@njit(nogil=True, fastmath={"contract", "nsz", "arcp", "reassoc"}, inline="always")
def _read(rows: Array, n: int, point: Array, at: Array, share: Array, values: Array) -> None:
    """Trilinear values (C,) at an inside point, from rows (n^3, C); fills corner indices `at` and weights `share`."""
    x0, x1, fx = _between(point[0], n)
    y0, y1, fy = _between(point[1], n)
    z0, z1, fz = _between(point[2], n)
    for corner in range(8):
        x, y, z = x1 if corner & 1 else x0, y1 if corner & 2 else y0, z1 if corner & 4 else z0
        at[corner] = (z * n + y) * n + x
        share[corner] = (fx if corner & 1 else 1 - fx) * (fy if corner & 2 else 1 - fy) * (fz if corner & 4 else 1 - fz)
    a, b, c, d, e, f, g, h = share[0], share[1], share[2], share[3], share[4], share[5], share[6], share[7]
    i, j, k, l = rows[at[0]], rows[at[1]], rows[at[2]], rows[at[3]]  # noqa: E741
    m, o, p, q = rows[at[4]], rows[at[5]], rows[at[6]], rows[at[7]]
    for v in range(values.shape[0]):
        values[v] = (a * i[v] + b * j[v] + c * k[v] + d * l[v]) + (e * m[v] + f * o[v] + g * p[v] + h * q[v])


@njit(nogil=True, inline="always")
def _passed(density: float) -> np.float32:
    """exp(-softplus(density)), the transmittance of a sample."""
    return np.float32(1 / (1 + math.exp(min(density, 80.0))))


@njit(nogil=True, fastmath={"contract", "nsz", "arcp", "reassoc"})
def _forward(volume: Array, points: Array, seen: Array, heads: int, begin: int, end: int) -> None:
    rays, depths = points.shape[1:3]
    width = volume.shape[4] // heads
    corners, share = np.empty(8, np.int64), np.empty(8, np.float32)
    values, left = np.empty(volume.shape[4], np.float32), np.empty(heads, np.float32)
    n = volume.shape[1]
    for ray in range(begin, end):
        g, r = ray // rays, ray % rays
        rows, out = volume[g].reshape(n**3, volume.shape[4]), seen[g, r]
        out[:] = 0
        left[:] = 1
        for d in range(depths):
            if _outside(points[g, r, d]):
                continue
            _read(rows, n, points[g, r, d], corners, share, values)
            for h in range(heads):
                at, to = h * width, h * (width + 1)
                after = left[h] * _passed(values[at])
                weight = left[h] - after
                left[h] = after
                out[to] += weight
                out[to + 1] += weight * np.float32((d + 0.5) / depths)
                for c in range(1, width):
                    out[to + 1 + c] += weight * values[at + c]
            if left.max() < DARK:
                break


@njit(nogil=True, fastmath={"contract", "nsz", "arcp", "reassoc"})
def _backward(
    volume: Array, points: Array, gradient: Array, to_volume: Array, heads: int, begin: int, end: int
) -> None:
    rays, depths = points.shape[1:3]
    channels = volume.shape[4]
    width = channels // heads
    corners, share = np.empty((depths, 8), np.int64), np.empty((depths, 8), np.float32)
    values = np.empty((depths, channels), np.float32)
    passed, weight, after = np.empty((3, depths, heads), np.float32)
    to_values, behind, left = np.empty(channels, np.float32), np.empty(heads, np.float32), np.empty(heads, np.float32)
    n = volume.shape[1]
    for g in range(begin, end):
        rows, to_rows = volume[g].reshape(n**3, channels), to_volume[g].reshape(n**3, channels)
        for r in range(rays):
            grad_out = gradient[g, r]
            left[:] = 1
            last = depths - 1
            for d in range(depths):
                if _outside(points[g, r, d]):
                    continue
                _read(rows, n, points[g, r, d], corners[d], share[d], values[d])
                for h in range(heads):
                    passed[d, h] = _passed(values[d, h * width])
                    after[d, h] = left[h] * passed[d, h]
                    weight[d, h] = left[h] - after[d, h]
                    left[h] = after[d, h]
                if left.max() < DARK:
                    last = d
                    break
            behind[:] = 0  # sum of weight * worth over the samples behind
            for d in range(last, -1, -1):
                if _outside(points[g, r, d]):
                    continue
                for h in range(heads):
                    at, to = h * width, h * (width + 1)
                    worth = grad_out[to] + grad_out[to + 1] * np.float32((d + 0.5) / depths)
                    for c in range(1, width):
                        worth += grad_out[to + 1 + c] * values[d, at + c]
                        to_values[at + c] = grad_out[to + 1 + c] * weight[d, h]
                    # gradient of the optical depth, times the derivative of softplus
                    to_values[at] = (worth * after[d, h] - behind[h]) * (1 - passed[d, h])
                    behind[h] += worth * weight[d, h]
                for corner in range(8):
                    row = to_rows[corners[d, corner]]
                    for c in range(channels):
                        row[c] += share[d, corner] * to_values[c]
