"""`mode=gallery`: one page over many runs, to compare them; reads what the runs left behind, and computes nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dreamfusion.checkpoint import find_runs, many
from dreamfusion.config import ASIDE
from dreamfusion.error import UserError
from dreamfusion.report.gallery import Entry, write_gallery
from dreamfusion.runs.summary import read_summary

log = logging.getLogger(__name__)
LEFT_OUT = {*ASIDE, "mode", "prompt", "export"} - {"study"}  # settings that change nothing in a picture
FIRST = ("prior_score", "silhouette_iou", "color_difference", "seconds")  # of the figures, the others come after these


def run(cfg: DictConfig, output: str, title: str) -> Path:
    """Write the page of the runs that `run` or `study` names, all by default, to `output`."""
    if Path(output).suffix.lower() not in (".html", ".htm"):
        raise UserError(f"mode.output is {output}; it is the path of a page, such as outputs/gallery.html")
    path, runs = Path(output), find_runs(many(cfg) or "all")
    gallery(runs, title, path)
    log.info("%s: %d runs, %.1f MB", path, len(runs), path.stat().st_size / 1e6)
    return path


def gallery(runs: Sequence[Path], title: str, path: Path) -> None:
    """The page of the runs in these folders."""
    write_gallery([entry_of(folder) for folder in runs], title, path)


def entry_of(folder: Path) -> Entry:
    """What a run's folder holds; a part that is missing is left out."""
    try:
        config = OmegaConf.load(folder / "config.yaml")
        if not isinstance(config, DictConfig):
            raise ValueError(f"{folder / 'config.yaml'} holds no settings")
        leaves = dict(flat(OmegaConf.to_container(config)))
        settings = {key: str(value) for key, value in leaves.items() if key.split(".")[0] not in LEFT_OUT}
        prompt = str(config.get("prompt") or folder.parent.name)
    except (OSError, OmegaConfBaseException, ValueError):  # a run of which only the weights are left
        settings, prompt = {}, folder.parent.name
    mesh, video, page = (folder / name for name in ("mesh.glb", "turntable.mp4", "index.html"))
    summary = read_summary(folder)
    names = [name for name in FIRST if name in summary] + [name for name in summary if name not in FIRST]
    figures = {name.replace("_", " "): f"{summary[name]:,}" for name in names if _counts(summary[name])}
    return Entry(
        prompt=prompt,
        mesh=mesh if mesh.is_file() else None,
        video=video if video.is_file() else None,
        page=page if page.is_file() else None,
        settings=settings,
        figures=figures,
    )


def flat(config: object, above: str = "") -> list[tuple[str, object]]:
    """Nested containers as (dotted key, value) of their leaves; a list counts as a leaf."""
    if not isinstance(config, dict):
        return [(above, config)]
    return [leaf for key, value in config.items() for leaf in flat(value, f"{above}.{key}" if above else str(key))]


def _counts(value: object) -> bool:
    return isinstance(value, int | float)
