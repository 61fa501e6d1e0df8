"""One page over many runs, made from their files without rendering."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from dreamfusion.report.gallery import Entry, write_gallery
from dreamfusion.runs.names import IGNORED
from dreamfusion.runs.settings import flat, plain
from dreamfusion.runs.summary import read_summary

EXCLUDED = {*IGNORED, "mode", "prompt", "export"} - {"study"}  # settings that do not change the pictures
FIRST = ("prior_score", "silhouette_iou", "color_difference", "seconds")  # figures shown before the others


def gallery(runs: Sequence[Path], title: str, path: Path) -> None:
    """Write the page of the runs in these folders."""
    write_gallery([entry_of(folder) for folder in runs], title, path)


def entry_of(folder: Path) -> Entry:
    """The gallery entry of a run's folder, without files that are missing."""
    try:
        config = OmegaConf.load(folder / "config.yaml")
        if not isinstance(config, DictConfig):
            raise ValueError(f"{folder / 'config.yaml'} contains no settings")
        tree = plain(config)
        leaves = flat(tree)
        settings = {key: str(value) for key, value in leaves.items() if key.split(".")[0] not in EXCLUDED}
        prompt = str(tree.get("prompt") or folder.parent.name)  # unresolved: the file may be foreign
    except (OSError, OmegaConfBaseException, ValueError, YAMLError):  # the settings are missing or unreadable
        settings, prompt = {}, folder.parent.name
    mesh, video, page = (folder / name for name in ("mesh.glb", "turntable.mp4", "index.html"))
    summary = read_summary(folder)
    names = [name for name in FIRST if name in summary] + [name for name in summary if name not in FIRST]
    figures = {name.replace("_", " "): f"{summary[name]:,}" for name in names if isinstance(summary[name], int | float)}
    return Entry(
        prompt=prompt,
        mesh=mesh if mesh.is_file() else None,
        video=video if video.is_file() else None,
        page=page if page.is_file() else None,
        settings=settings,
        figures=figures,
    )
