"""Finish a training run: write mesh, turntable and page, and log the results."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from dreamfusion.checkpoint import TrainedScene
from dreamfusion.export.settings import ExportSettings
from dreamfusion.export.splats import splat_bytes
from dreamfusion.files import check_finite
from dreamfusion.mesh.density_grid import EmptyFieldError
from dreamfusion.mesh.metrics import unlike
from dreamfusion.paths import LAST
from dreamfusion.phases import counted, phase
from dreamfusion.report.turntable import turntable
from dreamfusion.report.video import write_video
from dreamfusion.runs.export import export_scene, warn_if_unlike
from dreamfusion.runs.page import LIKENESS, PRIOR_SCORE, write_run_page
from dreamfusion.runs.summary import add_to_summary

log = logging.getLogger(__name__)
WAIT = 0.2  # seconds


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
    figures = {"steps": str(scene.step), "training": f"{seconds:.0f} s"}
    mesh: Path | None = None
    empty: EmptyFieldError | None = None
    warning = ""
    found: dict[str, float] = {"steps": scene.step, "seconds": round(seconds, 1)}
    with _beside(partial(_write_turntable, scene, frames, size, video)):
        try:
            exported = export_scene(scene, export)
            mesh = exported.path
            found |= exported.figures
            figures["triangles"] = f"{len(exported.surface.mesh.faces):,}"
            figures |= exported.printing
            figures[LIKENESS] = f"{exported.metrics.iou:.3f}"
            warn_if_unlike(exported)
            warning = unlike(exported.figures)
        except EmptyFieldError as error:
            empty = error
    with phase("score"):
        found |= measured(score)
    check_finite(found)
    if "prior_score" in found:
        figures[PRIOR_SCORE] = f"{found['prior_score']:.3f}"
    add_to_summary(folder, found)
    files = [p for p in (mesh, video, folder / "checkpoints" / LAST, folder / "config.yaml") if p is not None]
    splats = scene.scene.gaussians()
    with phase("page"):
        shown_too = b"" if splats is None else splat_bytes(splats)
        write_run_page(folder, scene.config, figures, mesh, video, files, warning, splats=shown_too)
    log.info("\n%s: %s", scene.config.prompt, ", ".join(f"{value} {name}" for name, value in figures.items()))
    for path in (mesh, video, folder / "index.html", folder):
        if path is not None:
            log.info("  %s", path)
    if empty is not None:
        raise empty
    return found


def _write_turntable(scene: TrainedScene, frames: int, size: int, path: Path) -> None:
    with phase("turntable"):
        write_video(counted(turntable(scene, frames, size), "turntable", frames), path)


@contextmanager
def _beside(work: Callable[[], None]) -> Iterator[None]:
    """Do `work` in a thread while the block runs; a signal ends the block without waiting for it, an error does not.

    Raises: the error of the block, or else of `work`.
    """
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    except Exception:  # not a signal
        _wait_for(thread)
        raise
    _wait_for(thread)
    for error in errors:
        raise error


def _wait_for(thread: threading.Thread) -> None:
    """Wait until a thread ends; in short waits, between which Windows notices Ctrl-C."""
    while thread.is_alive():
        thread.join(WAIT)


def measured(score: Callable[[], float]) -> dict[str, float]:
    """`prior_score` by name, see `scored`."""
    return scored("prior score", lambda: {"prior_score": round(score(), 4)})


def scored(name: str, scores: Callable[[], dict[str, float]]) -> dict[str, float]:
    """The scores by name; empty, with a warning, if they cannot be measured: a score ends no run."""
    try:
        return scores()
    except Exception as error:
        log.warning("no %s: %s: %s; the results of the run have none", name, type(error).__name__, error)
        return {}
