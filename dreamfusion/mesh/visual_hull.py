"""Fog cut back to what is seen: where a camera looks through, nothing is solid (before `isosurface.py`).

A trained scene is rarely as clear as a solid: a thick haze is opaque to the eye although its density is low everywhere,
and a thin one is not although its density is the same. No threshold of the density alone has both outlines right. So
the threshold is taken low, and a point counts as solid only if every one of a ring of cameras sees something opaque at
its pixel: the visual hull (Laurentini 1994) of the renders, intersected with the density.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from dreamfusion.camera.rays import project
from dreamfusion.mesh.threshold import VISIBLE
from dreamfusion.types import Cameras

Density = Callable[[Tensor], Tensor]
MISSED = 0.002  # share of the opaque rays on which the density may stay below the lowered threshold
EDGE = 1e-4  # opacities are kept this far from 0 and 1, where the odds end


def carve(density: Density, threshold: float, cameras: Cameras, opacity: Tensor) -> Density:
    """The density whose surface at `threshold` is also where the least opacity over the cameras passes 1/2.

    Occupancy is d / (d + threshold), so the density of which it equals an opacity o is threshold * o / (1 - o); the
    lesser of that and the field's own is returned. Points that a camera does not have in its picture count as unseen.

    Args:
        density: (N, 3) -> (N,), per scene unit.
        threshold: of the surface, per scene unit.
        cameras: B of them, all around.
        opacity: (B, 1, H, W) of their renders, in [0, 1].
    """

    def carved(positions: Tensor) -> Tensor:
        least = torch.ones(len(positions))
        for view in range(len(cameras)):
            points = project(cameras.one(view), positions[None])[0]  # (N, 2) pixels
            place = points / points.new_tensor([cameras.width, cameras.height]) * 2 - 1
            seen = grid_sample(opacity[view : view + 1], place[None, :, None], align_corners=False)[0, 0, :, 0]
            least = torch.minimum(least, torch.where((place.abs() < 1).all(-1), seen, 1.0))
        least = (least + 0.5 - VISIBLE).clamp(EDGE, 1 - EDGE)
        return torch.minimum(density(positions), threshold * least / (1 - least))

    return carved


def lowered(threshold: float, ray_max_density: Tensor, ray_opacity: Tensor) -> float:
    """The threshold that all but MISSED of the opaque rays pass, where that is less than `threshold`.

    Both tensors are (R,), as `find_threshold` takes them.
    """
    opaque = ray_max_density[(ray_opacity > VISIBLE) & (ray_max_density > 0)]
    return min(threshold, float(opaque.quantile(MISSED))) if len(opaque) else threshold
