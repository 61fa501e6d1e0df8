"""Ray marching on the CPU: two-level numba kernels, bitwise equal to the reference.

Steps are processed sixteen at a time: all are skipped if the surrounding cells of 8^3 voxels are empty; otherwise a
vectorised loop computes their voxels, which are then looked up without branches. No fastmath here: a step rounded into
the neighbouring voxel is a different sample.
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import maximum_filter
from torch import Tensor

from dreamfusion.ops.backend import run_parallel, spans
from dreamfusion.ops.kernel_cache import njit
from dreamfusion.types import RayBundle, RaySamples

Array = np.ndarray
_compiled = njit(nogil=True, error_model="numpy")

_SHIFT = 3  # a coarse cell is 2^3 voxels wide
_STRIDE = 16  # steps that are skipped or tested together
_HALF = np.float32(0.5)


class _Rays(NamedTuple):
    """R rays, float32."""

    origins: Array  # (R, 3)
    directions: Array  # (R, 3)
    jitter: Array  # (R,)
    near: Array  # (R,) where the chord begins
    step: np.float32  # length of an interval


class _Grid(NamedTuple):
    """Occupancy of the box [-radius, radius]^3."""

    voxels: Array  # (G, G, G) bool
    around: Array  # bool, for each coarse cell: whether steps near it may be occupied
    radius: np.float32
    scale: np.float32  # voxels per scene unit


def march(rays: RayBundle, occupancy: Tensor, radius: float, step: float, jitter: Tensor) -> RaySamples:
    """See `dreamfusion.ops.march.march`."""
    count, voxels = len(rays), occupancy.contiguous().numpy()
    origins, directions, shifts = (each.contiguous().numpy() for each in (rays.origins, rays.directions, jitter))
    near, steps = np.empty(count, np.float32), np.empty(count, np.int64)
    own = _Rays(origins, directions, shifts, near, np.float32(step))
    _chords(own, np.float32(radius**2), steps)

    capacity = np.concatenate((np.zeros(1, np.int64), np.cumsum(steps)))  # offsets if all steps were kept
    kept, counts = np.empty(capacity[-1], np.int32), np.empty(count, np.int64)
    scale = np.float32(voxels.shape[0] / (2 * radius))  # voxels per scene unit
    reach = int(np.ceil((_STRIDE / 2 * step * scale + 1) / (1 << _SHIFT)))  # of the steps skipped together, in cells
    around = maximum_filter(_coarsened(voxels), 2 * reach + 1)
    grid, tasks = _Grid(voxels, around, np.float32(radius), scale), spans(count, int(capacity[-1]))
    run_parallel(lambda span: _traverse(own, grid, *span, steps, capacity, kept, counts), tasks)

    offsets = torch.zeros(count + 1, dtype=torch.int64)
    offsets[1:] = torch.from_numpy(counts).cumsum(0)
    total = int(offsets[-1])
    ray, positions = torch.empty(total, dtype=torch.int64), torch.empty(3, total)  # the layout of the hash kernels
    start, end = torch.empty(total), torch.empty(total)
    first, out = offsets.numpy(), (ray.numpy(), start.numpy(), end.numpy(), positions.numpy())
    run_parallel(lambda span: _write(own, *span, capacity, kept, first, *out), tasks)
    return RaySamples(ray=ray, offsets=offsets, t_start=start, t_end=end, positions=positions.t())


@_compiled
def _coarsened(voxels: Array) -> Array:
    """Whether each cell of 8^3 voxels holds an occupied one."""
    g = voxels.shape[0]
    n = (g + (1 << _SHIFT) - 1) >> _SHIFT
    coarse = np.zeros((n, n, n), np.bool_)
    for x in range(g):
        for y in range(g):
            for z in range(g):
                if voxels[x, y, z]:
                    coarse[x >> _SHIFT, y >> _SHIFT, z >> _SHIFT] = True
    return coarse


@_compiled
def _chords(rays: _Rays, radius_squared: np.float32, steps: Array) -> None:
    """Write where each ray enters the sphere to `near`, and how many interval midpoints lie on its chord."""
    origins, directions, jitter, near, step = rays
    for r in range(origins.shape[0]):
        ox, oy, oz = origins[r, 0], origins[r, 1], origins[r, 2]
        dx, dy, dz = directions[r, 0], directions[r, 1], directions[r, 2]
        middle = -(ox * dx + oy * dy + oz * dz)
        cx, cy, cz = ox + middle * dx, oy + middle * dy, oz + middle * dz
        half = np.sqrt(max(radius_squared - (cx * cx + cy * cy + cz * cz), np.float32(0)))
        near[r], far = max(middle - half, np.float32(0)), middle + half
        n = 0
        if far > near[r]:
            n = int((far - near[r]) / step)  # off by one or two from rounding
            while n > 0 and near[r] + (np.float32(n - 1) + jitter[r]) * step >= far:
                n -= 1
            while near[r] + (np.float32(n) + jitter[r]) * step < far:
                n += 1
        steps[r] = n


@_compiled
def _traverse(
    rays: _Rays, grid: _Grid, begin: int, end: int, steps: Array, capacity: Array, kept: Array, counts: Array
) -> None:
    """Write the occupied steps of the rays [begin, end) consecutively, from kept[capacity[begin]]."""
    origins, directions, jitter, near, step = rays
    voxels, around, radius, scale = grid
    last, occupied = np.int32(voxels.shape[0] - 1), voxels.reshape(-1)
    width, plane = np.int32(voxels.shape[0]), np.int32(voxels.shape[0] ** 2)
    index, along = np.empty(_STRIDE, np.uint32), np.arange(_STRIDE).astype(np.float32)
    cursor = capacity[begin]
    for r in range(begin, end):
        ox, oy, oz = origins[r, 0], origins[r, 1], origins[r, 2]
        dx, dy, dz = directions[r, 0], directions[r, 1], directions[r, 2]
        before, first, shift = cursor, near[r], jitter[r]
        for i in range(0, steps[r], _STRIDE):
            t = first + (np.float32(i + _STRIDE // 2) + shift) * step
            x, y = _voxel(ox, dx, t, radius, scale, last), _voxel(oy, dy, t, radius, scale, last)
            z = _voxel(oz, dz, t, radius, scale, last)
            if not around[x >> _SHIFT, y >> _SHIFT, z >> _SHIFT]:
                continue
            for j in range(_STRIDE):
                t = first + ((np.float32(i) + along[j]) + shift) * step
                x, y = _voxel(ox, dx, t, radius, scale, last), _voxel(oy, dy, t, radius, scale, last)
                z = _voxel(oz, dz, t, radius, scale, last)
                index[j] = np.uint32(x * plane + y * width + z)
            for j in range(min(_STRIDE, steps[r] - i)):
                kept[np.uint64(cursor)] = i + j  # a signed index costs a comparison
                cursor += occupied[index[j]]
        counts[r] = cursor - before


@_compiled
def _voxel(
    origin: np.float32, direction: np.float32, t: np.float32, radius: np.float32, scale: np.float32, last: np.int32
) -> np.int32:
    return min(max(np.int32(((origin + t * direction) + radius) * scale), np.int32(0)), last)


@_compiled
def _write(
    rays: _Rays,
    begin: int,
    end: int,
    capacity: Array,
    kept: Array,
    offsets: Array,
    ray: Array,
    t_start: Array,
    t_end: Array,
    positions: Array,
) -> None:
    """Convert the steps that `_traverse` kept for the same rays to samples."""
    origins, directions, jitter, near, step = rays
    source = capacity[begin] - offsets[begin]
    for r in range(begin, end):
        for s in range(offsets[r], offsets[r + 1]):
            count = np.float32(kept[source + s]) + jitter[r]
            t = near[r] + count * step
            ray[s] = r
            t_start[s] = near[r] + (count - _HALF) * step
            t_end[s] = near[r] + (count + _HALF) * step
            for d in range(3):
                positions[d, s] = origins[r, d] + t * directions[r, d]
