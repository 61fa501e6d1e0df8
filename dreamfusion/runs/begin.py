"""The first files of a run, and the removal of what an earlier run in its folder left."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf

from dreamfusion.export.settings import VISUAL
from dreamfusion.files import replacing
from dreamfusion.paths import LAST, PREVIOUS
from dreamfusion.runs.pruning import RUNGS
from dreamfusion.runs.record import add_session
from dreamfusion.runs.results import FAILURE, RESULT
from dreamfusion.runs.settings import resolved
from dreamfusion.runs.summary import SUMMARY, read_summary
from dreamfusion.training.loggers import forget_earlier

# What a run writes at its end or for others to read, and a new run in its folder must not pass off as its own.
WRITTEN = (
    *(SUMMARY, RUNGS, "metrics.csv", "evaluation*.json", "mesh_check.png", "truth_check*.png", "turntable.mp4"),
    *("mesh.*", f"{VISUAL}.*", "splats.*"),
)


def forget_scores_of_another(step: int, folder: Path) -> None:
    """Remove the figures and scores in the run's folder unless they are of `step`: a run may be resumed to more."""
    if read_summary(folder).get("steps") in (None, step):
        return
    for name in (SUMMARY, "evaluation.json", "truth_check.png"):
        (folder / name).unlink(missing_ok=True)


def begin(cfg: DictConfig, folder: Path, loggers: Sequence[Logger], new: bool) -> None:
    """Mark the run as unfinished, remove the files of an earlier one if `new`, and write config.yaml and run.json."""
    (folder / RESULT).unlink(missing_ok=True)  # removed first: without a result, the run counts as unfinished
    (folder / FAILURE).unlink(missing_ok=True)
    if new:
        for name in (LAST, PREVIOUS):
            (folder / "checkpoints" / name).unlink(missing_ok=True)
        for name in ("previews", "tensorboard"):
            shutil.rmtree(folder / name, ignore_errors=True)
        for path in [path for pattern in WRITTEN for path in folder.glob(pattern)]:
            path.unlink(missing_ok=True)
        forget_earlier(loggers)
    with replacing(folder / "config.yaml") as draft:
        OmegaConf.save(cfg, draft)
    session = add_session(folder, new)
    for logger in loggers:
        logger.log_hyperparams(resolved(cfg) | {"session": session})
