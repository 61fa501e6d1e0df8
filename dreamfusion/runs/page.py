"""The page of a run in its folder, from the first preview on; it reloads itself while the run is at work."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from omegaconf import DictConfig

from dreamfusion.paths import REFERENCE
from dreamfusion.report.page import RunPage, write_page

SHEET = re.compile(r"[0-9]{6,}\.png")  # the names of the previews, by step
RELOADING = b'<meta http-equiv="refresh"'
RELOAD = 10  # seconds between two loads of the page of a run at work
LIKENESS, PRIOR_SCORE = "silhouette IoU with the renders", "prior score"  # names of figures
NOTES = {
    "thinnest wall": "diameter of the largest sphere between two opposite sides; 1 % of the surface is thinner",
    "overhang": "share of the surface that faces more than 45 degrees downwards, without parts that stand on the plate",
    LIKENESS: "of the mesh, 0 to 1: whether it has the shape that the renders show, not whether that shape is good "
    "(a blob may score high)",
    PRIOR_SCORE: "share of the prior's denoising error that the prompt removes; at most 1, about 0 for a scene that "
    "the prompt does not describe, negative for one that it contradicts; compare it within one prior only",
}


class LivePage:
    """The page of a run that trains in `folder`."""

    def __init__(self, folder: Path, cfg: DictConfig) -> None:
        self.folder, self.cfg = folder, cfg
        self._step = 0

    def show(self, step: int) -> None:
        """Write the page of a step, which reloads itself."""
        self._step = step
        self._write(RELOAD)

    def end(self) -> None:
        """Let the page rest, unless the final one has replaced it: the run has ended early."""
        path = self.folder / "index.html"
        with suppress(OSError):  # the error that ended the run is reported
            if self._step and RELOADING in path.read_bytes():
                self._write(None)

    def _write(self, reload: int | None) -> None:
        steps = {"steps": f"{self._step} of {self.cfg.trainer.max_steps}"}
        write_run_page(self.folder, self.cfg, steps, reload=reload)


def write_run_page(
    folder: Path,
    cfg: DictConfig,
    figures: Mapping[str, str],
    mesh: Path | None = None,
    video: Path | None = None,
    files: Sequence[Path] = (),
    warning: str = "",
    reload: int | None = None,
    splats: bytes = b"",
) -> None:
    """Write index.html into the run's folder; `reload`: seconds until an open page loads itself again."""
    sheets = sorted(path for path in (folder / "previews").glob("*.png") if SHEET.fullmatch(path.name))
    picture, metrics = folder / REFERENCE, folder / "metrics.csv"
    page = RunPage(
        prompt=str(cfg.prompt),
        mesh=mesh if mesh is not None and mesh.suffix == ".glb" else None,
        splats=splats,
        video=video,
        previews=({"the picture": picture} if cfg.get("image") is not None and picture.is_file() else {})
        | {f"step {int(path.stem)}": path for path in sheets[-4:]},
        metrics=metrics if metrics.is_file() else None,
        figures=figures,
        notes=NOTES,
        warning=warning,
        settings=shown_settings(cfg),
        files=files,
        reload=reload,
    )
    write_page(page, folder / "index.html")


def shown_settings(cfg: DictConfig) -> dict[str, str]:
    """The settings shown on the page."""
    scale = "guidance_scale" if cfg.guidance.get("camera_conditioning", True) else "untold_guidance_scale"
    return {
        "guidance": str(cfg.guidance._target_).rsplit(".", 1)[-1],
        "guidance scale": str(cfg.distillation.guidance_scale or cfg.guidance.get(scale, "")),
        "seed": str(cfg.seed),
        "views a step": str(cfg.camera.views),
        "image size": str(cfg.camera.size),
        "steps": str(cfg.trainer.max_steps),
    }
