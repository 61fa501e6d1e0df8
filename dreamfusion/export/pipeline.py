"""From a scene to a mesh: threshold by silhouette, then surface and colours (stage 14 as a whole)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from omegaconf import DictConfig
from torch import Tensor

from dreamfusion.checkpoint import Scene
from dreamfusion.export.isosurface import extract_mesh
from dreamfusion.export.threshold import find_threshold, max_density_per_ray
from dreamfusion.types import Mesh

VIEWS, SIZE = 8, 64  # held-out cameras for the silhouette: how many, pixels a side


@dataclass(frozen=True, eq=False)
class Surface:
    """A mesh and how it was found."""

    mesh: Mesh
    threshold: float  # density, per scene unit
    iou: float | None  # of its silhouette with the rendered one; None for a threshold that was given


def extract_surface(scene: Scene, export: DictConfig) -> Surface:
    """The scene's mesh as the export group configures it.

    Raises:
        EmptyFieldError: the scene shows nothing.
    """
    fit = None if export.threshold != "auto" else fit_threshold(scene)
    threshold = float(export.threshold) if fit is None else fit[0]

    def color(positions: Tensor) -> Tensor:
        albedo: Tensor = scene.field(positions).albedo
        return albedo

    mesh = extract_mesh(
        scene.field.density,
        color,
        scene.field.radius,
        export.resolution,
        threshold,
        chunk=export.chunk,
        min_piece=export.min_piece,
        smoothing=export.smoothing,
        color_inset=export.color_inset,
    )
    return Surface(mesh, threshold, None if fit is None else fit[1])


@torch.no_grad()
def fit_threshold(scene: Scene) -> tuple[float, float]:
    """Threshold and silhouette IoU over cameras at azimuths and elevations between the previews'."""
    azimuth = (torch.arange(VIEWS) + 0.5) * (360 / VIEWS)
    cameras = scene.camera.view(azimuth, 25.0, SIZE, SIZE)
    out = scene.renderer(cameras, scene.field, scene.background)
    density = scene.field.density(out.samples.positions)
    fit = find_threshold(max_density_per_ray(out.samples.ray, density, len(out.directions)), out.opacity.reshape(-1))
    return fit.threshold, fit.iou
