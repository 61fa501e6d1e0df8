"""Remove fog by intersecting the density with the visual hull of the renders (before `isosurface.py`).

A trained scene often contains haze: a thick layer is opaque and a thin layer of the same density transparent, so no
density threshold alone reproduces both outlines. Instead, the threshold is lowered, and a point is solid only if the
renders of all cameras around the scene are opaque at its pixel (visual hull, Laurentini 1994).
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, max_pool2d

from dreamfusion.camera.rays import project
from dreamfusion.mesh.threshold import VISIBLE
from dreamfusion.ops.constants import constant
from dreamfusion.types import Cameras

Density = Callable[[Tensor], Tensor]
NEAR, WIDE = 2, 3  # pixels around one: where the opacity of its part is looked for; a part is thick if all are opaque
FAINT = 0.5  # a part whose largest opacity is less than half of it is fog, however thin
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


def thin_parts_solid(opacity: Tensor) -> Tensor:
    """Opacity (B, 1, H, W), that of thin parts as a share of the largest within NEAR pixels, or of FAINT if it is less.

    A solid part ends where its opacity is 1/2, a translucent twig of two pixels where it has half of its own: some
    views see through it, and one is enough to remove it. Thin is what an opening by WIDE pixels makes transparent.
    """
    peak = _largest(opacity, NEAR).clamp(min=FAINT)
    thick = _largest(-_largest(-opacity, WIDE), WIDE)
    return torch.where(thick > VISIBLE, opacity, opacity / peak)


def _largest(image: Tensor, radius: int) -> Tensor:
    """The largest value of each pixel's square of 2 radius + 1 pixels."""
    return max_pool2d(image, 2 * radius + 1, stride=1, padding=radius)


def lowered(threshold: float, ray_max_density: Tensor, ray_opacity: Tensor) -> float:
    """The smaller of `threshold` and the density that all opaque rays but a share of MISSED exceed.

    Both tensors are (R,), as in `find_threshold`.
    """
    opaque = ray_max_density[(ray_opacity > VISIBLE) & (ray_max_density > 0)]
    return min(threshold, float(opaque.quantile(MISSED))) if len(opaque) else threshold
