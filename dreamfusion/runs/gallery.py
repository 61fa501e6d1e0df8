"""One page over many runs, read from their files; nothing is rendered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dreamfusion.report.gallery import Entry, write_gallery
from dreamfusion.runs.names import ASIDE
from dreamfusion.runs.settings import flat, plain
from dreamfusion.runs.summary import read_summary

LEFT_OUT = {*ASIDE, "mode", "prompt", "export"} - {"study"}  # settings that change nothing in a picture
FIRST = ("prior_score", "silhouette_iou", "color_difference", "seconds")  # figures that come before the others


def gallery(runs: Sequence[Path], title: str, path: Path) -> None:
    """The page of the runs in these folders."""
    write_gallery([entry_of(folder) for folder in runs], title, path)


def entry_of(folder: Path) -> Entry:
    """What a run's folder holds; a part that is missing is left out."""
    try:
        config = OmegaConf.load(folder / "config.yaml")
        if not isinstance(config, DictConfig):
            raise ValueError(f"{folder / 'config.yaml'} holds no settings")
        leaves = flat(plain(config))
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


def _counts(value: object) -> bool:
    return isinstance(value, int | float)
