"""`mode=gallery`: one page over many runs, to compare them; reads what the runs left behind, and computes nothing."""

from __future__ import annotations

import logging
from pathlib import Path

from omegaconf import DictConfig

from dreamfusion.error import UserError
from dreamfusion.runs.find import find_runs, run_choice
from dreamfusion.runs.gallery import gallery
from dreamfusion.runs.names import ASIDE

log = logging.getLogger(__name__)
LEFT_OUT = {*ASIDE, "mode", "prompt", "export"} - {"study"}  # settings that change nothing in a picture
FIRST = ("prior_score", "silhouette_iou", "color_difference", "seconds")  # of the figures, the others come after these


def run(cfg: DictConfig, output: str, title: str) -> Path:
    """Write the page of the runs that `run` or `study` names, all by default, to `output`."""
    if Path(output).suffix.lower() not in (".html", ".htm"):
        raise UserError(f"mode.output is {output}; it is the path of a page, such as outputs/gallery.html")
    path, runs = Path(output), find_runs(run_choice(cfg) or "all")
    gallery(runs, title, path)
    log.info("%s: %d runs, %.1f MB", path, len(runs), path.stat().st_size / 1e6)
    return path
