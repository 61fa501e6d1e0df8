"""`mode=list`: a table of runs with their steps, scores and sizes; reads their files only, and imports no torch."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from dreamfusion.error import UserError
from dreamfusion.runs.find import find_runs, run_choice
from dreamfusion.runs.results import counted, read_result

log = logging.getLogger(__name__)
HEAD = ("MB", "checkpoints MB", "steps", "seconds", "prior_score", "run")


def run(cfg: DictConfig) -> list[Path]:
    """Print the runs that `run` or `study` names (default: all), the largest first; returns their folders."""
    folders = find_runs(run_choice(cfg) or "all", weights=False)
    rows = sorted(map(row_of, folders), key=lambda row: -row[0])
    shown = [HEAD, *((f"{row[0]:.1f}", f"{row[1]:.1f}", *row[2:5], str(row[5])) for row in rows)]
    widths = [max(len(line[column]) for line in shown) for column in range(len(HEAD) - 1)]
    for line in shown:
        log.info("%s  %s", "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=False)), line[-1])
    size, checkpoints = sum(row[0] for row in rows), sum(row[1] for row in rows)
    log.info("%s, %.1f MB, %.1f MB of it checkpoints", counted(len(rows), "run"), size, checkpoints)
    return [row[5] for row in rows]


def row_of(folder: Path) -> tuple[float, float, str, str, str, Path]:
    """Megabytes of the run and of its checkpoints, steps, seconds, score, and folder; "-" where it is not finished."""
    sizes = {path: path.stat().st_size / 1e6 for path in folder.rglob("*") if path.is_file()}
    checkpoints = sum(size for path, size in sizes.items() if path.parent.name == "checkpoints")
    try:
        result = read_result(folder)
    except UserError as error:
        log.warning("%s", error)
        result = None
    if result is None:
        return sum(sizes.values()), checkpoints, "-", "-", "-", folder
    score = result.scores.get("prior_score")
    shown = "-" if score is None else f"{score:.3f}"
    return sum(sizes.values()), checkpoints, str(result.steps), f"{result.seconds:.0f}", shown, folder
