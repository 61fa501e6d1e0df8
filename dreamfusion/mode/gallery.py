"""`mode=gallery`: write one page that compares many runs, from their files."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from dreamfusion.error import UserError
from dreamfusion.runs.find import find_runs, run_choice
from dreamfusion.runs.gallery import gallery
from dreamfusion.runs.results import counted

log = logging.getLogger(__name__)


def run(cfg: DictConfig, output: str, title: str) -> Path:
    """Write a page of the runs that `run` or `study` names (default: all) to `output`."""
    if Path(output).suffix.lower() not in (".html", ".htm"):
        raise UserError(f"mode.output is {output}; it must be the path of an HTML file, such as outputs/gallery.html")
    path, runs = Path(output), find_runs(run_choice(cfg) or "all", weights=False)
    gallery(runs, title, path)
    log.info("%s: %s, %.1f MB", path, counted(len(runs), "run"), path.stat().st_size / 1e6)
    return path
