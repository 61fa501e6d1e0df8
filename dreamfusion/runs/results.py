"""result.json: marks a run as finished, and holds its scores and settings; failure.json: why a run failed.

Both are written last and atomically. A killed run has none, and resumes from its last checkpoint.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from dreamfusion.error import UserError
from dreamfusion.files import write_json
from dreamfusion.paths import LAST, PREVIOUS

RESULT = "result.json"
FAILURE = "failure.json"  # of a run that ended with an error; removed when it begins again
SCORES = ("prior_score", "silhouette_iou", "color_difference")  # the figures that compare runs
# The higher, the better, and the lower: against the laboratory's truth, see evaluation/scene.py.
TRUE_HIGH = (
    "volume_iou", "volume_iou_seen", "volume_iou_aligned", "fscore_1", "fscore_2", "truth_silhouette_iou",
    "truth_psnr", "truth_ssim",
)  # fmt: skip
TRUE_LOW = ("chamfer", "normal_error", "truth_color_error", "azimuth_error", "second_face_rate")
COMPARED = (*SCORES, *TRUE_HIGH, *TRUE_LOW, "clip_score", "r_precision", "r_precision_geometry", "t3bench_quality")
# Scores of a run that failed or ended early during a search: worse than any real one (a prior_score may be below 0),
# and finite, which every sweeper takes.
BEYOND = 1e9
WORST = {
    **dict.fromkeys(("prior_score", "silhouette_iou", *TRUE_HIGH), -BEYOND),
    **dict.fromkeys(("color_difference", *TRUE_LOW), BEYOND),
}


@dataclass(frozen=True)
class Result:
    """The result of a finished run, or of one that failed."""

    prompt: str
    seed: int
    steps: int
    seconds: float  # of the training in all sessions; a killed session counts up to its last checkpoint
    scores: Mapping[str, float]  # by name; without a mesh, its scores are missing
    settings: Mapping[str, Any]  # dotted name -> value
    pruned: str | None = None  # the reason, if the run was stopped early
    restarts: int = 0  # by watchdog=restart
    failed: str | None = None  # the reason, if it ended with an error: then not finished
    path: Path = Path()  # the run's folder; not stored, because the folder may move


def counted(number: int, what: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def write_result(result: Result, folder: Path) -> None:
    """Mark the run in `folder` as finished, or as failed.

    Raises:
        UserError: a score is not finite.
    """
    content = asdict(result)
    del content["path"]
    if result.failed is None:
        del content["failed"]
    infinite = {k: str(v) for k, v in result.settings.items() if isinstance(v, float) and not math.isfinite(v)}
    content["settings"] |= infinite
    write_json(folder / (RESULT if result.failed is None else FAILURE), content)


def read_result(folder: Path, name: str = RESULT) -> Result | None:
    """The result in a run's folder; None if the run is not finished. `name` is FAILURE for that of a failed run.

    Raises:
        UserError: the file is not a result.
    """
    path = folder / name
    if not path.is_file():
        return None
    try:
        result = Result(**json.loads(path.read_text(encoding="utf-8")), path=folder)
        kinds: dict[str, Any] = {
            "prompt": str,
            "seed": int,
            "steps": int,
            "seconds": int | float,
            "scores": dict,
            "settings": dict,
        }
        kinds |= {"pruned": str | NoneType, "restarts": int}
        kinds["failed"] = NoneType if name == RESULT else str
        if not all(isinstance(getattr(result, name), kind) for name, kind in kinds.items()):
            raise TypeError("a value of another type")
        if not all(math.isfinite(number) for number in (result.seconds, *result.scores.values())):
            raise ValueError("a number that is not finite")
        return result
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"{path} is not the result of a run; remove the file to repeat the run") from error


def check_objective(names: str | Sequence[str] | None, evaluate: bool = False, own: Iterable[str] = ()) -> None:
    """Raises: UserError: a score does not exist, or is not measured; checked before a run trains for it.

    `own`: names of the scores of the group `scores`.
    """
    for name in [names] if isinstance(names, str) else names or []:
        if name in (*TRUE_HIGH, *TRUE_LOW) and not evaluate:
            raise UserError(f"objective is {name}, which needs mode.evaluate=true")
        if name not in (*SCORES, *TRUE_HIGH, *TRUE_LOW, *own):
            known = ", ".join(sorted((*SCORES, *own))), ", ".join(sorted((*TRUE_HIGH, *TRUE_LOW)))
            raise UserError(
                f"objective is {name}; the scores of a run are {known[0]}, and with mode.evaluate=true {known[1]}"
            )


def objective(folder: Path, names: str | Sequence[str], own: Mapping[str, float] | None = None) -> float | list[float]:
    """The scores `names` of the run in `folder`, for a search; WORST replaces those of a run that ended early.

    `own`: the worst values of the scores of the group `scores`.

    Raises:
        UserError: the score does not exist, or a run of all its steps lacks it; the message lists the existing ones.
    """
    if not isinstance(names, str):
        return [float(objective(folder, name, own)) for name in names]  # type: ignore[arg-type]
    result = read_result(folder)
    early = result is None or result.pruned is not None
    scores = ({**WORST, **(own or {})} if early else {}) | (dict(result.scores) if result is not None else {})
    if names not in scores:
        raise UserError(f"objective is {names}; the scores of a run are {', '.join(sorted(scores))}")
    return scores[names]


def used_file(folder: Path) -> str | None:
    """A file in a run's folder that a new run there would replace, the result or a checkpoint; None without one."""
    files = (RESULT, f"checkpoints/{LAST}", f"checkpoints/{PREVIOUS}")
    return next((name for name in files if (folder / name).is_file()), None)
