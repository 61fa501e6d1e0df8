"""Stop a study's weak runs early, by successive halving (ASHA, Li et al. 2020). Failed runs are the watchdog's.

At each rung, a fraction of the run's steps, a run writes its score to `rungs.json`, and continues if the score is in
the better share of all runs that have reached the rung. Runs never wait for each other, whatever the number of workers.
"""

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L

from dreamfusion.error import UserError
from dreamfusion.files import read_figures, write_json

RUNGS = "rungs.json"
ENDED = "ended at {}"  # key in it, of a rung at which the run was ended
log = logging.getLogger(__name__)

Measure = Callable[[], float]


def none(folder: Path, measure: Measure) -> list[L.Callback]:
    """No pruning: every run takes all its steps."""
    return []


def halving(folder: Path, measure: Measure, rungs: Sequence[float], keep: float, startup: int) -> list[L.Callback]:
    """`Halving` for the run in `folder`."""
    return [Halving(folder, measure, rungs, keep, startup)]


class Halving(L.Callback):
    """Stops training at a rung and sets `reason`; `score` is the last score measured."""

    def __init__(self, folder: Path, measure: Measure, rungs: Sequence[float], keep: float, startup: int) -> None:
        """
        Args:
            folder: the run's folder, inside the study's folder `folder.parent.parent`.
            measure: returns the scene's current score; higher is better.
            rungs: fractions of the run's steps, in (0, 1).
            keep: share of the runs at a rung that continue, in (0, 1].
            startup: number of runs that must reach a rung before any is pruned there by its score.

        Raises:
            UserError: a setting is out of range.
        """
        if not all(0 < rung < 1 for rung in rungs):
            raise UserError(f"pruning.rungs is {list(rungs)}; it must list fractions between 0 and 1")
        if not 0 < keep <= 1:
            raise UserError(f"pruning.keep is {keep}; it must be above 0 and at most 1")
        if startup < 2:
            raise UserError(f"pruning.startup is {startup}; it must be at least 2, because a comparison needs 2 runs")
        self.folder, self.measure, self.rungs, self.keep, self.startup = folder, measure, rungs, keep, startup
        self.reason: str | None = None
        self.score: float | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"reason": self.reason, "score": self.score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.reason, self.score = state_dict["reason"], state_dict["score"]

    def on_train_start(self, trainer: L.Trainer, system: L.LightningModule) -> None:
        """Decide where an interruption at a rung prevented it; a run that was ended there stays so."""
        self._decide(trainer)
        if self.reason is not None:
            log.info("%s; type pruning=none to continue", self.reason)
            trainer.should_stop = True

    def on_train_batch_end(self, trainer: L.Trainer, system: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._decide(trainer)

    def _decide(self, trainer: L.Trainer) -> None:
        for rung in self.rungs:
            if trainer.global_step == max(1, round(rung * trainer.max_steps)):
                if trainer.is_global_zero:
                    self._compare(rung)
                # All processes of a distributed run must stop together.
                if trainer.strategy.reduce_boolean_decision(self.reason is not None, all=False):
                    trainer.should_stop = True

    def _compare(self, rung: float) -> None:
        """Decide at a rung, or repeat the decision that the run's file has, when a resumed run comes there again."""
        known = read_rungs(self.folder)
        if str(rung) in known:
            score, ends = known[str(rung)], ENDED.format(rung) in known
            self.score = math.nan if score is None else score
        else:
            self.score = self.measure()
            others = scores_of_other_runs(self.folder, rung)
            ends = not in_better_share(self.score, others, self.keep, self.startup)
            known[str(rung)] = self.score if math.isfinite(self.score) else None
            write_json(self.folder / RUNGS, known | ({ENDED.format(rung): 1.0} if ends else {}), indent=None)
        if ends:
            self.reason = f"its score at {rung:g} of the run, {self.score:.4f}, is not in the better {self.keep:.0%}"


def in_better_share(score: float, others: Sequence[float], keep: float, startup: int) -> bool:
    """Whether `score` is in the better share `keep` of all scores at its rung."""
    if not math.isfinite(score):
        return False
    if len(others) + 1 < startup:
        return True
    better = sum(other > score for other in others)
    return better < keep * (len(others) + 1)


def scores_of_other_runs(folder: Path, rung: float) -> list[float]:
    """The scores at a rung of the study's other runs of the same prompt: prompts differ more than settings do.

    Of a second stage, in the folder of a run, those of the other second stages.
    """
    inside = (folder.parent / "config.yaml").is_file()
    found = folder.parent.parent.glob(f"*/{folder.name}/{RUNGS}") if inside else folder.parent.glob(f"*/{RUNGS}")
    runs = (path.parent for path in found)
    scores = (read_rungs(run).get(str(rung)) for run in runs if run != folder)
    return [score for score in scores if score is not None]


def read_rungs(folder: Path) -> dict[str, float | None]:
    """A run's scores by rung, None for one that was not finite; empty if it reached none."""
    return read_figures(folder / RUNGS)
