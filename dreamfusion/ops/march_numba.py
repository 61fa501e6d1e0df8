"""Ray marching on the CPU: numba kernels that leap over empty blocks of 8^3 voxels and give the reference's bits.

No fastmath here: a step that rounds to the other side of a voxel is another sample.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from dreamfusion.ops.backend import run_parallel, spans
from dreamfusion.types import RayBundle, RaySamples

_compiled = njit(nogil=True, error_model="numpy", cache=True)

_SHIFT = 3  # a coarse cell is 2^3 voxels wide
_HALF = np.float32(0.5)


def march(rays: RayBundle, occupancy: Tensor, radius: float, step: float, jitter: Tensor) -> RaySamples:
    """See `dreamfusion.ops.march.march`."""
    count = len(rays)
    origins, directions = rays.origins.contiguous().numpy(), rays.directions.contiguous().numpy()
    shifts, voxels = jitter.contiguous().numpy(), occupancy.contiguous().numpy()
    coarse = _coarsen(voxels)
    near, steps = np.empty(count, np.float32), np.empty(count, np.int64)
    _chords(origins, directions, shifts, np.float32(radius**2), np.float32(step), near, steps)

    room = np.concatenate((np.zeros(1, np.int64), np.cumsum(steps)))  # where a ray could begin, were all steps kept
    kept, counts = np.empty(room[-1], np.int32), np.empty(count, np.int64)
    scale = np.float32(voxels.shape[0] / (2 * radius))  # voxels per scene unit
    size = np.float32(radius), scale, np.float32(step)
    tasks = spans(count, int(room[-1]))
    run_parallel(
        lambda span: _traverse(
            origins, directions, shifts, near, steps, voxels, coarse, *size, *span, room, kept, counts
        ),
        tasks,
    )

    offsets = torch.zeros(count + 1, dtype=torch.int64)
    offsets[1:] = torch.from_numpy(counts).cumsum(0)
    total = int(offsets[-1])
    ray, positions = torch.empty(total, dtype=torch.int64), torch.empty(3, total)  # as the hash kernels want them
    start, end = torch.empty(total), torch.empty(total)
    first, out = offsets.numpy(), (ray.numpy(), start.numpy(), end.numpy(), positions.numpy())
    run_parallel(
        lambda span: _write(origins, directions, shifts, near, np.float32(step), *span, room, kept, first, *out),
        tasks,
    )
    return RaySamples(ray=ray, offsets=offsets, t_start=start, t_end=end, positions=positions.t())


@_compiled
def _coarsen(voxels: np.ndarray) -> np.ndarray:
    """Whether a cell of 8^3 voxels holds an occupied one."""
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
def _chords(
    origins: np.ndarray,
    directions: np.ndarray,
    jitter: np.ndarray,
    radius_squared: np.float32,
    step: np.float32,
    near: np.ndarray,
    steps: np.ndarray,
) -> None:
    """Where each ray enters the sphere, and how many middles of intervals lie before it leaves."""
    for r in range(origins.shape[0]):
        ox, oy, oz = origins[r, 0], origins[r, 1], origins[r, 2]
        dx, dy, dz = directions[r, 0], directions[r, 1], directions[r, 2]
        middle = -(ox * dx + oy * dy + oz * dz)
        cx, cy, cz = ox + middle * dx, oy + middle * dy, oz + middle * dz
        half = np.sqrt(max(radius_squared - (cx * cx + cy * cy + cz * cz), np.float32(0)))
        near[r], far = max(middle - half, np.float32(0)), middle + half
        n = 0
        if far > near[r]:
            n = int((far - near[r]) / step)  # to within one or two, by rounding
            while n > 0 and near[r] + (np.float32(n - 1) + jitter[r]) * step >= far:
                n -= 1
            while near[r] + (np.float32(n) + jitter[r]) * step < far:
                n += 1
        steps[r] = n


@_compiled
def _traverse(
    origins: np.ndarray,
    directions: np.ndarray,
    jitter: np.ndarray,
    near: np.ndarray,
    steps: np.ndarray,
    voxels: np.ndarray,
    coarse: np.ndarray,
    radius: np.float32,
    scale: np.float32,
    step: np.float32,
    begin: int,
    end: int,
    room: np.ndarray,
    kept: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Write the occupied steps of the rays [begin, end) one after the other, from kept[room[begin]] on."""
    g = voxels.shape[0]
    cursor = room[begin]
    for r in range(begin, end):
        before, i, n = cursor, 0, steps[r]
        while i < n:
            t = near[r] + (np.float32(i) + jitter[r]) * step
            x = _voxel(origins[r, 0], directions[r, 0], t, radius, scale, g)
            y = _voxel(origins[r, 1], directions[r, 1], t, radius, scale, g)
            z = _voxel(origins[r, 2], directions[r, 2], t, radius, scale, g)
            if coarse[x >> _SHIFT, y >> _SHIFT, z >> _SHIFT]:
                if voxels[x, y, z]:
                    kept[cursor] = i
                    cursor += 1
                i += 1
            else:
                i = _leap(
                    origins[r], directions[r], jitter[r], near[r], radius, scale, step, g,
                    x >> _SHIFT, y >> _SHIFT, z >> _SHIFT, i, n,
                )  # fmt: skip
        counts[r] = cursor - before


@_compiled
def _leap(
    origin: np.ndarray,
    direction: np.ndarray,
    jitter: np.float32,
    near: np.float32,
    radius: np.float32,
    scale: np.float32,
    step: np.float32,
    g: int,
    x: int,
    y: int,
    z: int,
    i: int,
    n: int,
) -> int:
    """The first step after i that may lie outside the coarse cell (x, y, z).

    The leap is estimated from where the ray leaves the cell, and shortened until the step before its end is found
    in the cell. Each coordinate is monotone along the ray, rounding included, so all steps between are in it too.
    """
    cell = (x, y, z)
    width = np.float32(1 << _SHIFT) / scale
    exit_t = np.float32(np.inf)
    for d in range(3):
        if direction[d] != 0:
            face = np.float32(cell[d] + (1 if direction[d] > 0 else 0)) * width - radius
            exit_t = min(exit_t, (face - origin[d]) / direction[d])
    j = int(min((exit_t - near) / step - jitter, np.float32(n - 1))) + 1
    while j > i + 1:
        t = near + (np.float32(j - 1) + jitter) * step
        if (
            _voxel(origin[0], direction[0], t, radius, scale, g) >> _SHIFT == x
            and _voxel(origin[1], direction[1], t, radius, scale, g) >> _SHIFT == y
            and _voxel(origin[2], direction[2], t, radius, scale, g) >> _SHIFT == z
        ):
            return j
        j -= 1
    return i + 1


@_compiled
def _voxel(
    origin: np.float32, direction: np.float32, t: np.float32, radius: np.float32, scale: np.float32, g: int
) -> int:
    return min(max(int(((origin + t * direction) + radius) * scale), 0), g - 1)


@_compiled
def _write(
    origins: np.ndarray,
    directions: np.ndarray,
    jitter: np.ndarray,
    near: np.ndarray,
    step: np.float32,
    begin: int,
    end: int,
    room: np.ndarray,
    kept: np.ndarray,
    offsets: np.ndarray,
    ray: np.ndarray,
    t_start: np.ndarray,
    t_end: np.ndarray,
    positions: np.ndarray,
) -> None:
    """Turn the steps that `_traverse` kept for the same rays into samples."""
    source = room[begin] - offsets[begin]
    for r in range(begin, end):
        for s in range(offsets[r], offsets[r + 1]):
            count = np.float32(kept[source + s]) + jitter[r]
            t = near[r] + count * step
            ray[s] = r
            t_start[s] = near[r] + (count - _HALF) * step
            t_end[s] = near[r] + (count + _HALF) * step
            for d in range(3):
                positions[d, s] = origins[r, d] + t * directions[r, d]
