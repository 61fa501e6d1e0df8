"""Choose the density threshold whose mesh silhouette best matches the renders (before `isosurface.py`).

A ray hits the region above a threshold exactly if the largest density along the ray exceeds the threshold. This gives
the silhouette of the mesh for every threshold at once, without building a mesh.
"""

import torch
from torch import Tensor

from dreamfusion.mesh.density_grid import EmptyFieldError
from dreamfusion.types import check_shape

VISIBLE = 0.5  # pixels with a larger opacity belong to the rendered silhouette


def find_threshold(ray_max_density: Tensor, ray_opacity: Tensor) -> tuple[float, float]:
    """The threshold that maximises IoU(ray_max_density > threshold, ray_opacity > 1/2) over all rays, exactly.

    With rays sorted by density, a threshold selects the first k rays: the intersection is the number of visible rays
    among the selected ones, the union is k plus the number of visible rays not selected. This takes one sort and one
    cumulative sum, O(R log R). The result is the geometric mean of the densities of rays k and k + 1, because densities
    span orders of magnitude. Ties go to the widest gap, which is the least sensitive.

    Args:
        ray_max_density: (R,) largest density along each ray, 0 without samples; see `max_density_per_ray`.
        ray_opacity: (R,) rendered opacity in [0, 1], of held-out cameras.

    Returns:
        The density per scene unit, and the intersection over union of the two silhouettes.

    Raises:
        EmptyFieldError: no ray is opaque, so there is no rendered silhouette.
        ValueError: shapes differ, or a density is not finite.
    """
    check_shape("ray_max_density", ray_max_density.shape, (None,))
    check_shape("ray_opacity", ray_opacity.shape, ray_max_density.shape)
    if not torch.isfinite(ray_max_density).all():
        raise ValueError(f"ray_max_density is not finite on {int((~ray_max_density.isfinite()).sum())} rays")
    density, order = ray_max_density.detach().cpu().double().sort(descending=True)
    visible = (ray_opacity.detach().cpu() > VISIBLE)[order]
    if not bool((visible & (density > 0.0)).any()):
        largest = float(ray_opacity.max()) if len(ray_opacity) else 0.0
        raise EmptyFieldError(
            f"the renders are empty: the largest opacity over {len(ray_opacity)} rays is {largest:.3g}, "
            f"a silhouette needs more than {VISIBLE}. Train longer, or set export.threshold to a number"
        )

    intersection = visible.cumsum(0)
    selected = torch.arange(1, len(density) + 1)
    iou = intersection / (selected + visible.sum() - intersection)

    following = torch.cat([density[1:], density.new_zeros(1)])
    gap_ends = density > following  # a threshold cannot separate equal densities, and 0 is no surface
    # For a gap down to 0, whose geometric mean is 0, the threshold is half the density above.
    lower = torch.where(following > 0.0, following, density / 4.0)
    width = torch.where(gap_ends, density / lower.clamp_min(torch.finfo(torch.float64).tiny), density.new_zeros(()))
    best = torch.where(gap_ends, iou, iou.new_full((), -1.0))
    k = torch.where(best == best.max(), width, -torch.ones_like(width)).argmax()
    return float((density[k] * lower[k]).sqrt()), float(iou[k])


def max_density_per_ray(ray: Tensor, density: Tensor, rays: int) -> Tensor:
    """(R,) largest density of each ray's packed samples (`ray` (S,) int64, `density` (S,)); 0 without samples."""
    return density.new_zeros(rays).scatter_reduce(0, ray, density, reduce="amax", include_self=True)
