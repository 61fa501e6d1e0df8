"""Finish a training run: write mesh, turntable and page, and log the results."""

import logging
import re
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig

from dreamfusion.checkpoint import TrainedScene
from dreamfusion.export.settings import ExportSettings
from dreamfusion.files import check_finite
from dreamfusion.mesh.density_grid import EmptyFieldError
from dreamfusion.paths import LAST
from dreamfusion.report.page import RunPage, write_page
from dreamfusion.report.turntable import turntable
from dreamfusion.report.video import write_video
from dreamfusion.runs.export import export_scene
from dreamfusion.runs.summary import add_to_summary

log = logging.getLogger(__name__)
SHEET = re.compile(r"[0-9]{6,}\.png")  # the names of the previews, by step


def finish(
    scene: TrainedScene, export: ExportSettings, frames: int, size: int, seconds: float, score: Callable[[], float]
) -> dict[str, float]:
    """Write turntable, mesh and page into the run's folder; returns the final figures by name.

    The score, which may run out of memory, is measured after the mesh is written.

    Raises:
        EmptyFieldError: the scene has no surface; turntable and page are written without the mesh.
        UserError: the score is not finite: there are no usable weights.
    """
    folder = scene.run
    video = folder / "turntable.mp4"
    write_video(turntable(scene, frames, size), video)
    figures = {"steps": str(scene.step), "training": f"{seconds:.0f} s"}
    mesh: Path | None = None
    empty: EmptyFieldError | None = None
    found: dict[str, float] = {"steps": scene.step, "seconds": round(seconds, 1)}
    try:
        exported = export_scene(scene, export)
        mesh = exported.path
        found |= exported.figures
        figures["triangles"] = f"{len(exported.surface.mesh.faces):,}"
        figures["silhouette IoU, mesh and renders"] = f"{exported.metrics.iou:.3f}"
    except EmptyFieldError as error:
        empty = error
    found |= measured(score)
    check_finite(found)
    if "prior_score" in found:
        figures["prior score"] = f"{found['prior_score']:.3f}"
    add_to_summary(folder, found)
    sheets = sorted(path for path in (folder / "previews").glob("*.png") if SHEET.fullmatch(path.name))
    shown = {f"step {int(path.stem)}": path for path in sheets[-4:]}
    files = [p for p in (mesh, video, folder / "checkpoints" / LAST, folder / "config.yaml") if p is not None]
    metrics = folder / "metrics.csv"
    page = RunPage(
        prompt=str(scene.config.prompt),
        mesh=mesh if mesh is not None and mesh.suffix == ".glb" else None,
        video=video,
        previews=shown,
        metrics=metrics if metrics.is_file() else None,
        figures=figures,
        settings=shown_settings(scene.config),
        files=files,
    )
    write_page(page, folder / "index.html")
    log.info("\n%s: %s", scene.config.prompt, ", ".join(f"{value} {name}" for name, value in figures.items()))
    for path in (mesh, video, folder / "index.html", folder):
        if path is not None:
            log.info("  %s", path)
    if empty is not None:
        raise empty
    return found


def measured(score: Callable[[], float]) -> dict[str, float]:
    """`prior_score` by name; empty, with a warning, if it cannot be measured: a score ends no run."""
    try:
        return {"prior_score": round(score(), 4)}
    except Exception as error:
        log.warning("no prior score: %s: %s; the results of the run have none", type(error).__name__, error)
        return {}


def shown_settings(cfg: DictConfig) -> dict[str, str]:
    """The settings shown on the page."""
    return {
        "guidance": str(cfg.guidance._target_).rsplit(".", 1)[-1],
        "guidance scale": str(cfg.distillation.guidance_scale or cfg.guidance.get("guidance_scale", "")),
        "seed": str(cfg.seed),
        "views a step": str(cfg.camera.views),
        "image size": str(cfg.camera.size),
        "steps": str(cfg.trainer.max_steps),
    }
