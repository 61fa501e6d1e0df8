"""One page over many runs, made from their files without rendering."""

import logging
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from dreamfusion.error import UserError
from dreamfusion.mesh.metrics import unlike
from dreamfusion.report.gallery import Entry, check_video, write_gallery
from dreamfusion.runs.names import IGNORED
from dreamfusion.runs.page import LIKENESS
from dreamfusion.runs.settings import flat
from dreamfusion.runs.summary import read_summary
from dreamfusion.untrusted import INTERPOLATION, read_settings

log = logging.getLogger(__name__)

EXCLUDED = {*IGNORED, "mode", "prompt", "export"} - {"study"}  # settings that do not change the pictures
LABELS = {"silhouette_iou": LIKENESS}
FIRST = ("prior_score", "silhouette_iou", "color_difference", "seconds")  # figures shown before the others


def gallery(runs: Sequence[Path], title: str, path: Path) -> None:
    """Write the page of the runs in these folders."""
    entries = []
    for folder in runs:
        try:
            entries.append(entry_of(folder))
        except UserError as error:
            log.warning("left out: %s", error)
    if not entries:
        raise UserError(f"no run can be shown on {path}")
    write_gallery(entries, title, path)


def entry_of(folder: Path) -> Entry:
    """The gallery entry of a run's folder, without files that are missing.

    Raises:
        UserError: a file is broken; the message names it.
    """
    path = folder / "config.yaml"
    config = read_settings(path) if path.is_file() else {}
    settings = {key: str(value) for key, value in flat(config).items() if key.split(".")[0] not in EXCLUDED}
    prompt = str(config.get("prompt") or folder.parent.name)
    if not INTERPOLATION.search(prompt):  # else it is shown as written: the file may be foreign
        prompt = str(OmegaConf.create({"prompt": prompt}).prompt)  # without the backslash of a literal "${"
    mesh, video, page = (folder / name for name in ("mesh.glb", "turntable.mp4", "index.html"))
    if video.is_file():
        check_video(video)
    summary = read_summary(folder)
    names = [name for name in FIRST if name in summary] + [name for name in summary if name not in FIRST]
    found = {name: summary[name] for name in names if isinstance(summary[name], int | float)}
    return Entry(
        prompt=prompt,
        mesh=mesh if mesh.is_file() else None,
        video=video if video.is_file() else None,
        page=page if page.is_file() else None,
        settings=settings,
        figures={LABELS.get(name, name.replace("_", " ")): number(value) for name, value in found.items()},
        warning=unlike(summary),
    )


def number(value: int | float) -> str:
    """A figure with four digits, or a whole number."""
    return f"{int(value):,}" if isinstance(value, int) or value.is_integer() else f"{value:,.4g}"
