"""`mode=report`: write a study's table: each finished run's prompt, seed, differing settings, time and scores."""

from pathlib import Path

from omegaconf import DictConfig

from dreamfusion.error import UserError
from dreamfusion.runs.report import report
from dreamfusion.runs.study import known_studies


def run(cfg: DictConfig, reference: str | None) -> Path:
    """Write report.csv, report.md, gallery.html and, with true scores, the leaderboard; print report.md.

    Raises:
        UserError: `study` is missing or does not exist, or not one row of its leaderboard has `reference` in its name.
    """
    if cfg.study is None:
        raise UserError(f"mode=report needs a study; type study=NAME ({known_studies()})")
    return report(str(cfg.study), logger=cfg.logger, reference=reference)
