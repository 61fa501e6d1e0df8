"""`mode=report`: a study as a table: each finished run's prompt, seed, differing settings, time, scores and folder."""

from __future__ import annotations

import logging
from pathlib import Path

from omegaconf import DictConfig

from dreamfusion.error import UserError
from dreamfusion.runs.names import STUDIES
from dreamfusion.runs.report import report

log = logging.getLogger(__name__)
LONGEST = 40  # characters of a prompt or setting in the Markdown table


def run(cfg: DictConfig) -> Path:
    """Write report.csv, report.md and gallery.html into the study's folder, and print the second.

    Raises:
        UserError: no study is named, or there is none of that name.
    """
    if cfg.study is None:
        there = ", ".join(sorted(path.name for path in STUDIES.glob("*") if path.is_dir())) or "none yet"
        raise UserError(f"mode=report needs a study; type study=NAME (in {STUDIES}: {there})")
    return report(str(cfg.study), logger=cfg.logger)
