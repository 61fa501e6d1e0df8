"""`mode=export`: a mesh file from a run's checkpoint; needs neither guidance nor prompt."""

from __future__ import annotations

import logging
from pathlib import Path

from omegaconf import DictConfig

from dreamfusion.checkpoint import Scene, find_checkpoint, load_scene
from dreamfusion.export.pipeline import Surface, extract_surface
from dreamfusion.export.writer import write_mesh

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> Path:
    """Write mesh.<format> into the run's folder and say what it is."""
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
