"""Torch reference of ray marching: test every step of every ray against the occupancy grid, then pack.

The order of the float32 operations is part of the contract: the CPU kernel is bitwise equal.
"""

import math

import torch
from torch import Tensor

from dreamfusion.ops.backend import widest_float
from dreamfusion.types import RayBundle, RaySamples

_RAYS_AT_ONCE = 4096  # bounds the memory of the dense steps


def march(rays: RayBundle, occupancy: Tensor, radius: float, step: float, jitter: Tensor) -> RaySamples:
    """See `dreamfusion.ops.march.march`."""
    near, far = sphere_chords(rays.origins, rays.directions, radius)
    kept = []  # (ray, step) pairs
    for begin in range(0, len(rays), _RAYS_AT_ONCE):
        part = slice(begin, begin + _RAYS_AT_ONCE)
        some = RayBundle(rays.origins[part], rays.directions[part])
        dense = _occupied_steps(some, occupancy, radius, step, jitter[part], near[part], far[part])
        ray, index = dense.nonzero(as_tuple=True)
        kept.append(torch.stack((ray + begin, index)))
    ray, index = torch.cat(kept, dim=1) if kept else occupancy.new_zeros((2, 0), dtype=torch.int64)
    return pack(rays, ray, index, near, step, jitter)


def sphere_chords(origins: Tensor, directions: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Distances where rays enter and leave the sphere around the origin -> (R,), (R,); enter >= leave for a miss.

    Computed from the point of closest approach; the quadratic formula cancels for distant cameras.
    """
    (ox, oy, oz), (dx, dy, dz) = origins.unbind(-1), directions.unbind(-1)
    middle = -(ox * dx + oy * dy + oz * dz)
    cx, cy, cz = ox + middle * dx, oy + middle * dy, oz + middle * dz
    square = (radius**2 - (cx * cx + cy * cy + cz * cz)).clamp_min(0)
    half = square.to(widest_float(square.device)).sqrt().to(square.dtype)  # torch's float32 sqrt may be off by an ulp
    return (middle - half).clamp_min(0), middle + half


def pack(rays: RayBundle, ray: Tensor, index: Tensor, near: Tensor, step: float, jitter: Tensor) -> RaySamples:
    """Samples at step `index` (S,) of ray `ray` (S,), sorted by both."""
    count = index.to(jitter.dtype) + jitter[ray]
    middle = near[ray] + count * step
    return RaySamples(
        ray=ray,
        # Unlike bincount, which waits for a GPU: `ray` is ascending.
        offsets=torch.searchsorted(ray, torch.arange(len(rays) + 1, device=ray.device)),
        t_start=near[ray] + (count - 0.5) * step,
        t_end=near[ray] + (count + 0.5) * step,
        positions=rays.origins[ray] + middle[:, None] * rays.directions[ray],
    )


def _occupied_steps(
    rays: RayBundle, occupancy: Tensor, radius: float, step: float, jitter: Tensor, near: Tensor, far: Tensor
) -> Tensor:
    """Whether each step of the longest chord lies on its ray's chord and is occupied -> (R, steps)."""
    g = occupancy.shape[0]
    steps = torch.arange(math.ceil(2 * radius / step) + 1, device=near.device, dtype=near.dtype)
    middle = near[:, None] + (steps + jitter[:, None]) * step
    positions = rays.origins[:, None] + middle[..., None] * rays.directions[:, None]  # (R, steps, 3)
    x, y, z = ((positions + radius) * (g / (2 * radius))).long().clamp(0, g - 1).unbind(-1)
    return (middle < far[:, None]) & occupancy[x, y, z]
