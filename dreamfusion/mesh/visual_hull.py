"""Remove fog by intersecting the density with the visual hull of the renders (before `isosurface.py`).

A trained scene often contains haze: a thick layer is opaque and a thin layer of the same density transparent, so no
density threshold alone reproduces both outlines. Instead, the threshold is lowered, and a point is solid only if the
renders of all cameras around the scene are opaque at its pixel (visual hull, Laurentini 1994).
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from dreamfusion.camera.rays import project
from dreamfusion.mesh.threshold import VISIBLE
from dreamfusion.ops.constants import constant
from dreamfusion.types import Cameras

Density = Callable[[Tensor], Tensor]
MISSED = 0.002  # share of the opaque rays whose density may stay below the lowered threshold
EDGE = 1e-4  # opacities are clamped to [EDGE, 1 - EDGE], where the odds are finite and positive


def intersect_visual_hull(density: Density, threshold: float, cameras: Cameras, opacity: Tensor) -> Density:
    """The density limited so that it falls below `threshold` where the least opacity over the cameras is below 1/2.

    Occupancy d / (d + threshold) equals an opacity o at the density threshold * o / (1 - o); the result is the minimum
    of this density and the field's. A camera does not limit points outside its image.

    Args:
        density: (N, 3) -> (N,), per scene unit.
        threshold: of the surface, per scene unit.
        cameras: B cameras around the scene.
        opacity: (B, 1, H, W) rendered opacity in [0, 1].
    """

    def limited(positions: Tensor) -> Tensor:
        least = positions.new_ones(len(positions))
        size = constant((cameras.width, cameras.height), positions.device)
        for view in range(len(cameras)):
            points = project(cameras.one(view), positions[None])[0]  # (N, 2) pixels
            place = points / size * 2 - 1
            seen = grid_sample(opacity[view : view + 1], place[None, :, None], align_corners=False)[0, 0, :, 0]
            least = torch.minimum(least, torch.where((place.abs() < 1).all(-1), seen, 1.0))
        least = (least + 0.5 - VISIBLE).clamp(EDGE, 1 - EDGE)
        return torch.minimum(density(positions), threshold * least / (1 - least))

    return limited


def lowered(threshold: float, ray_max_density: Tensor, ray_opacity: Tensor) -> float:
    """The smaller of `threshold` and the density that all opaque rays but a share of MISSED exceed.

    Both tensors are (R,), as in `find_threshold`.
    """
    opaque = ray_max_density[(ray_opacity > VISIBLE) & (ray_max_density > 0)]
    return min(threshold, float(opaque.quantile(MISSED))) if len(opaque) else threshold
