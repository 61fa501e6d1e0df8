"""Which density is the surface? The one whose mesh has the silhouette that the renders have (before `isosurface.py`).

A ray meets the region where the density exceeds a threshold exactly if the largest density along it does, so the
silhouette of the mesh is known for every threshold at once, without building one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamfusion.mesh.density_grid import EmptyFieldError

VISIBLE = 0.5  # a pixel belongs to the rendered silhouette from this opacity on


@dataclass(frozen=True)
class SilhouetteFit:
    """The best threshold, and how well the mesh and the renders then agree."""

    threshold: float  # density, per scene unit
    iou: float  # intersection over union of the two silhouettes, in [0, 1]


def find_threshold(ray_max_density: Tensor, ray_opacity: Tensor) -> SilhouetteFit:
    """The threshold that maximises IoU(ray_max_density > threshold, ray_opacity > 1/2) over all rays, exactly.

    With the rays sorted by density, a threshold selects the first k of them: the intersection is the number of visible
    rays among these, the union is k plus the visible rays missed. That is one sort and one running sum, O(R log R).
    The threshold returned is the geometric middle of the gap between ray k and ray k + 1 (densities span orders of
    magnitude). Where several k are equally good, the widest gap wins: it is the least sensitive.

    Args:
        ray_max_density: (R,) largest density along each ray, 0 where it met no sample; see `max_density_per_ray`.
        ray_opacity: (R,) rendered opacity in [0, 1], of cameras that the training has not seen.

    Raises:
        EmptyFieldError: no ray is opaque, so there is no silhouette to agree with.
        ValueError: shapes differ, or a density is not finite.
    """
    if ray_max_density.shape != ray_opacity.shape or ray_opacity.dim() != 1:
        raise ValueError(
            f"ray_max_density {tuple(ray_max_density.shape)} and ray_opacity {tuple(ray_opacity.shape)} "
            "must both have the shape (R,)"
        )
    if not torch.isfinite(ray_max_density).all():
        raise ValueError(f"ray_max_density is not finite on {int((~ray_max_density.isfinite()).sum())} rays")
    density, order = ray_max_density.detach().double().cpu().sort(descending=True)
    visible = (ray_opacity.detach().cpu() > VISIBLE)[order]
    if not bool((visible & (density > 0.0)).any()):
        largest = float(ray_opacity.max()) if len(ray_opacity) else 0.0
        raise EmptyFieldError(
            f"the renders show nothing: the largest opacity over {len(ray_opacity)} rays is {largest:.3g}, "
            f"a silhouette needs more than {VISIBLE}. Train for longer, or set export.threshold to a number"
        )

    intersection = visible.cumsum(0)
    selected = torch.arange(1, len(density) + 1)
    iou = intersection / (selected + visible.sum() - intersection)

    following = torch.cat([density[1:], density.new_zeros(1)])
    gap_ends = density > following  # a threshold cannot part equal densities, and density 0 is never a surface
    # The geometric middle of a gap that reaches down to 0 would be 0: half the density above it stands in.
    lower = torch.where(following > 0.0, following, density / 4.0)
    width = torch.where(gap_ends, density / lower.clamp_min(torch.finfo(torch.float64).tiny), density.new_zeros(()))
    best = torch.where(gap_ends, iou, iou.new_full((), -1.0))
    k = torch.where(best == best.max(), width, -torch.ones_like(width)).argmax()
    return SilhouetteFit(threshold=float((density[k] * lower[k]).sqrt()), iou=float(iou[k]))


def max_density_per_ray(ray: Tensor, density: Tensor, rays: int) -> Tensor:
    """(R,) largest density of each ray's packed samples (`ray` (S,) int64, `density` (S,)); 0 for rays without any."""
    return density.new_zeros(rays).scatter_reduce(0, ray, density, reduce="amax", include_self=True)
