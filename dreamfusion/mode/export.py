"""`mode=export`: a mesh file from a run's checkpoint; needs neither guidance nor prompt."""

from __future__ import annotations

import logging
from pathlib import Path

from omegaconf import DictConfig

from dreamfusion.checkpoint import Scene, find_checkpoint, load_scene
from dreamfusion.error import UserError, check_positive
from dreamfusion.export.pipeline import Surface, extract_surface
from dreamfusion.export.writer import FORMATS, write_mesh

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> Path:
    """Write mesh.<format> into the run's folder and say what it is."""
    check_export(cfg.export)
    scene = load_scene(find_checkpoint(cfg.checkpoint or "latest"))
    path, surface = export_scene(scene, cfg.export)
    agreement = "" if surface.iou is None else f", silhouette IoU {surface.iou:.3f} with the renders"
    log.info("%s: %d triangles%s", path, len(surface.mesh.faces), agreement)
    return path


def export_scene(scene: Scene, export: DictConfig) -> tuple[Path, Surface]:
    """Extract the mesh and write it beside the checkpoint's run."""
    surface = extract_surface(scene, export)
    path = scene.run / f"mesh.{export.format}"
    metadata = {
        "prompt": str(scene.config.prompt),
        "seed": str(scene.config.seed),
        "steps": str(scene.step),
        "threshold": f"{surface.threshold:.4g}",
        "silhouette_iou": "" if surface.iou is None else f"{surface.iou:.4f}",
    }
    write_mesh(surface.mesh, path, metadata)
    return path, surface


def check_export(export: DictConfig) -> None:
    """Raises: UserError: a setting that no mesh can have; asked before the minutes of a training run."""
    if export.format not in FORMATS:
        raise UserError(f"export.format is {export.format}; the formats are {', '.join(FORMATS)}")
    if export.resolution < 8:
        raise UserError(f"export.resolution is {export.resolution}; at least 8 cells a side are needed")
    if not 0 <= export.min_piece <= 1:
        raise UserError(f"export.min_piece is {export.min_piece}; it is a share of the largest piece, 0 to 1")
    if export.threshold != "auto" and not (isinstance(export.threshold, int | float) and export.threshold > 0):
        raise UserError(f"export.threshold is {export.threshold}; it is auto, or a density above 0")
    check_positive("export", chunk=export.chunk)
