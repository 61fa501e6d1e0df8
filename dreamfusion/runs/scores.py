"""Scores of a user's own (`scores=...`): functions from the trained scene to a number, beside those of every run."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from hydra.utils import instantiate

from dreamfusion.checkpoint import TrainedScene
from dreamfusion.error import UserError
from dreamfusion.files import check_finite
from dreamfusion.runs.results import COMPARED

Judge = Callable[[TrainedScene], dict[str, float]]


def own_scores(settings: Mapping[str, Any] | None) -> Judge:
    """What measures all scores of the group `scores`.

    One that fails, or is not finite, is left out with a warning.

    Raises:
        UserError: a score has the name of another, or cannot be called.
    """
    measures = dict(instantiate(settings)) if settings else {}
    for name, measure in measures.items():
        if name in COMPARED:
            raise UserError(f"scores.{name} has the name of a score that runs have already; choose another name")
        if not callable(measure):
            raise UserError(
                f"scores.{name} makes a {type(measure).__name__}, not a function of the scene; add _partial_: true"
            )

    def judge(scene: TrainedScene) -> dict[str, float]:
        from dreamfusion.runs.finish import scored  # imported here: slow

        found: dict[str, float] = {}
        for name, measure in measures.items():
            found |= scored(name, partial(_finite, name, measure, scene))
        return found

    return judge


def _finite(name: str, measure: Callable[[TrainedScene], float], scene: TrainedScene) -> dict[str, float]:
    value = {name: float(measure(scene))}
    check_finite(value)
    return value
