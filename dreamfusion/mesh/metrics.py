"""Compare the exported mesh with the scene: silhouettes and colours from eight cameras.

The cameras lie between those that determined the threshold. `ops/rasterize` renders the mesh with its texture or
vertex colours.
"""

from dataclasses import dataclass

import numpy as np
import torch

from dreamfusion.camera.orbit import Orbit
from dreamfusion.image import contact_sheet
from dreamfusion.ops.rasterize import as_raster, rasterize
from dreamfusion.scene.base import Scene
from dreamfusion.scene.picture import render_picture
from dreamfusion.types import Mesh

VIEWS, ELEVATION = 8, 10.0  # cameras around the object; their elevation in degrees
SIZE = 128  # pixels a side
VISIBLE = 0.5  # opacity above which a pixel belongs to the silhouette
ENOUGH = 0.95  # IoU below which the mesh does not match the renders


@dataclass(frozen=True, eq=False)
class MeshMetrics:
    """Agreement of mesh and renders over all views."""

    iou: float  # of the silhouettes, over all views
    worst_iou: float  # of the worst view
    color_difference: float  # mean absolute difference in [0, 1] where both silhouettes overlap
    sheet: np.ndarray  # (2 SIZE, VIEWS SIZE, 3) uint8: the scene above, the mesh below


def compare(scene: Scene, orbit: Orbit, mesh: Mesh) -> MeshMetrics:
    """Render the scene and the mesh (in scene units, y up) from VIEWS azimuths.

    Compares albedo, so that a mesh with baked light differs by that light.
    """
    cameras = orbit.view(torch.arange(VIEWS) * (360.0 / VIEWS), ELEVATION, SIZE, SIZE)
    pictures = [render_picture(scene, cameras.one(view)) for view in range(len(cameras))]
    opacity, color = (np.stack([getattr(picture, name) for picture in pictures]) for name in ("opacity", "color"))
    drawn = rasterize(as_raster(mesh), cameras)
    one, other = opacity > VISIBLE, drawn.alpha > VISIBLE
    both, either = (one & other).sum((1, 2)), (one | other).sum((1, 2))
    difference = np.abs(color - drawn.albedo)[one & other]
    over_white = [
        c * alpha[..., None] + (1 - alpha)[..., None] for c, alpha in ((color, opacity), (drawn.albedo, drawn.alpha))
    ]
    sheet = np.rint(np.concatenate(over_white).clip(0, 1) * 255).astype(np.uint8)
    return MeshMetrics(
        iou=float(both.sum() / max(either.sum(), 1)),
        worst_iou=float((both / np.maximum(either, 1)).min()),
        color_difference=float(difference.mean()) if difference.size else 1.0,
        sheet=contact_sheet(list(sheet), VIEWS),
    )


def unlike(iou: float) -> str:
    """The sentence about a mesh that is not what the renders show; empty if it is."""
    if iou >= ENOUGH:
        return ""
    return f"the mesh differs from the renders (silhouette IoU {iou:.3f}; at least {ENOUGH:.2f} is good)"
