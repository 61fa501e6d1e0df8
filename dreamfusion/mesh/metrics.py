"""Compare the exported mesh with the scene: silhouettes and colours from eight cameras.

The cameras lie between those that determined the threshold. `ops/rasterize` renders the mesh with its texture or
vertex colours.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import binary_dilation, label

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
RIM, PART = 2, 12  # pixels: a part is farther from the mesh's silhouette than the first and has more than the second


@dataclass(frozen=True, eq=False)
class MeshMetrics:
    """Agreement of mesh and renders over all views."""

    iou: float  # of the silhouettes, over all views
    worst_iou: float  # of the worst view
    missing: int  # pixels of the largest part that a render shows and the mesh lacks, in any view
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
        missing=max(largest_part(shown & ~near(solid)) for shown, solid in zip(one, other, strict=True)),
        color_difference=float(difference.mean()) if difference.size else 1.0,
        sheet=contact_sheet(list(sheet), VIEWS),
    )


def near(silhouette: np.ndarray) -> np.ndarray:
    """Pixels (H, W) of the silhouette or at most RIM pixels from it."""
    return np.asarray(binary_dilation(silhouette, np.ones((3, 3)), iterations=RIM))


def largest_part(pixels: np.ndarray) -> int:
    """Pixels of the largest connected region of (H, W) bool."""
    regions, _ = label(pixels, np.ones((3, 3)))
    return int(np.bincount(regions.flat)[1:].max(initial=0))


def unlike(figures: Mapping[str, object]) -> str:
    """The sentence about a mesh that is not what the renders show, from the figures of its run; empty if it is."""
    iou, missing = figures.get("silhouette_iou"), figures.get("missing_pixels")
    if isinstance(iou, int | float) and iou < ENOUGH:
        return f"the mesh differs from the renders (silhouette IoU {iou:.3f}; at least {ENOUGH:.2f} is good)"
    if isinstance(missing, int | float) and missing > PART:
        return f"the mesh lacks a part that the renders show ({missing:.0f} of {SIZE}x{SIZE} pixels)"
    return ""
