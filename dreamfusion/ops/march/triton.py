"""Ray marching on any GPU: a Triton kernel counts the occupied steps of each ray, and again writes them.

The samples are bitwise those of the reference: the same float32 operations, none of them contracted. Between the passes
the host reads the total number of samples, the only synchronisation: memory is allocated for it.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from dreamfusion.ops.launch import launch, tile
from dreamfusion.types import RayBundle, RaySamples

_RAYS, _STEPS = tile(4, interpreted=512), tile(32, interpreted=128)


def march(rays: RayBundle, occupancy: Tensor, radius: float, step: float, jitter: Tensor) -> RaySamples:
    """See `dreamfusion.ops.march.march`; at most 1290^3 voxels."""
    side, count = occupancy.shape[0], len(rays)
    given = [each.contiguous() for each in (rays.origins, rays.directions, jitter, occupancy)]
    numbers = count, math.ceil(2 * radius / step) + 1, side, radius, radius**2, side / (2 * radius), step
    grid, settings = (triton.cdiv(count, _RAYS),), {"RAYS": _RAYS, "STEPS": _STEPS, "enable_fp_fusion": False}
    offsets = torch.zeros(count + 1, dtype=torch.int64, device=jitter.device)
    launch(_march, grid, *given, offsets, *[offsets] * 4, *numbers, 0, WRITE=False, **settings)
    offsets = offsets.cumsum(0)
    total = int(offsets[-1])
    samples = RaySamples(
        ray=offsets.new_empty(total),
        offsets=offsets,
        t_start=jitter.new_empty(total),
        t_end=jitter.new_empty(total),
        positions=jitter.new_empty(3, total).t(),  # the layout of the hash kernels
    )
    written = samples.ray, samples.t_start, samples.t_end, samples.positions
    launch(_march, grid, *given, offsets, *written, *numbers, total, WRITE=True, **settings)
    return samples


@triton.jit(do_not_specialize=["rays", "total"])
def _march(
    origins: tl.tensor,  # (R, 3)
    directions: tl.tensor,  # (R, 3)
    jitter: tl.tensor,  # (R,)
    voxels: tl.tensor,  # (G, G, G) bool
    offsets: tl.tensor,  # (R + 1,) int64; without WRITE the counts are written behind its first number
    ray_of: tl.tensor,  # (S,) int64, as the next three with WRITE only
    t_start: tl.tensor,  # (S,)
    t_end: tl.tensor,  # (S,)
    positions: tl.tensor,  # (3, S)
    rays: tl.tensor,  # R
    limit: tl.tensor,  # steps of the longest chord
    side: tl.tensor,  # G
    radius: tl.tensor,
    radius_squared: tl.tensor,
    scale: tl.tensor,  # voxels per scene unit
    step: tl.tensor,
    total: tl.tensor,  # S
    WRITE: tl.constexpr,
    RAYS: tl.constexpr,
    STEPS: tl.constexpr,
) -> None:
    """Test STEPS steps of RAYS rays at once, from the near end of the longest chord to its far end."""
    ray = tl.program_id(0) * RAYS + tl.arange(0, RAYS)
    valid = ray < rays
    ox, oy, oz = _vector(origins, ray, valid)
    dx, dy, dz = _vector(directions, ray, valid)
    shift = tl.load(jitter + ray, mask=valid, other=0.0)[:, None]
    middle = -(ox * dx + oy * dy + oz * dz)
    cx, cy, cz = ox + middle * dx, oy + middle * dy, oz + middle * dz
    half = tl.sqrt_rn(tl.maximum(radius_squared - (cx * cx + cy * cy + cz * cz), 0.0))
    near, far = tl.maximum(middle - half, 0.0), middle + half
    longest = tl.max(tl.where(valid, far - near, 0.0), axis=0)
    steps = tl.minimum((longest / step).to(tl.int32) + 2, limit)  # one too many does no harm
    begin, taken = tl.load(offsets + ray, mask=valid, other=0), tl.zeros((RAYS,), tl.int32)
    for first in range(0, steps, STEPS):
        index = (first + tl.arange(0, STEPS))[None, :]
        strata = index.to(tl.float32) + shift
        t = near[:, None] + strata * step
        x, y, z = ox[:, None] + t * dx[:, None], oy[:, None] + t * dy[:, None], oz[:, None] + t * dz[:, None]
        i, j, k = _voxel(x, radius, scale, side), _voxel(y, radius, scale, side), _voxel(z, radius, scale, side)
        kept = (t < far[:, None]) & valid[:, None] & (index < limit)
        kept = kept & (tl.load(voxels + (i * side + j) * side + k, mask=kept, other=0) != 0)
        number = kept.to(tl.int32)
        if WRITE:
            place = (begin + taken)[:, None] + tl.cumsum(number, axis=1) - 1
            tl.store(ray_of + place, ray[:, None].to(tl.int64), mask=kept)
            tl.store(t_start + place, near[:, None] + (strata - 0.5) * step, mask=kept)
            tl.store(t_end + place, near[:, None] + (strata + 0.5) * step, mask=kept)
            tl.store(positions + place, x, mask=kept)
            tl.store(positions + total + place, y, mask=kept)
            tl.store(positions + 2 * total + place, z, mask=kept)
        taken += tl.sum(number, axis=1)
    if not WRITE:
        tl.store(offsets + 1 + ray, taken.to(tl.int64), mask=valid)


@triton.jit
def _vector(rows: tl.tensor, ray: tl.tensor, valid: tl.tensor) -> tl.tuple:
    at = rows + 3 * ray
    x, y = tl.load(at, mask=valid, other=0.0), tl.load(at + 1, mask=valid, other=0.0)
    return x, y, tl.load(at + 2, mask=valid, other=0.0)


@triton.jit
def _voxel(x: tl.tensor, radius: tl.tensor, scale: tl.tensor, side: tl.tensor) -> tl.tensor:
    return tl.minimum(tl.maximum(((x + radius) * scale).to(tl.int32), 0), side - 1)
