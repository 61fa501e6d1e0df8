"""result.json: the mark and the content of a finished run.

It is written last, and whole or not at all. A run that was killed has no result, and resumes from its last checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dreamfusion.error import UserError
from dreamfusion.files import replacing

RESULT = "result.json"
SCORES = ("prior_score", "silhouette_iou", "color_difference")  # the figures by which runs are compared
SCORES_WITHOUT_MESH = {"silhouette_iou": 0.0}  # scores of a run without a mesh


@dataclass(frozen=True)
class Result:
    """What a finished run came to."""

    prompt: str
    seed: int
    steps: int
    seconds: float  # of all its sessions; of a killed one, until its last checkpoint
    scores: Mapping[str, float]  # by name; a mesh that could not be made has no score
    settings: Mapping[str, Any]  # dotted name -> value, of the whole configuration
    pruned: str | None = None  # why the run was ended before its time
    path: Path = Path()  # the run's folder; not in the file, which may be moved


def write_result(result: Result, folder: Path) -> None:
    """Mark the run in `folder` finished."""
    content = asdict(result)
    del content["path"]
    with replacing(folder / RESULT) as draft:
        draft.write_text(json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")


def read_result(folder: Path) -> Result | None:
    """The result in a run's folder; None if the run is not finished.

    Raises:
        UserError: the file is there, but is no result.
    """
    path = folder / RESULT
    if not path.is_file():
        return None
    try:
        return Result(**json.loads(path.read_text(encoding="utf-8")), path=folder)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is not the result of a run; remove it, and the run is made again") from error


def objective(folder: Path, names: str | Sequence[str]) -> float | list[float]:
    """What a search is told of the finished run in `folder`: the score of that name, or a list of several.

    A mesh that could not be made agrees with nothing: its score is SCORES_WITHOUT_MESH.

    Raises:
        UserError: no score of that name; lists those there are.
    """
    if not isinstance(names, str):
        return [float(objective(folder, name)) for name in names]  # type: ignore[arg-type]
    result = read_result(folder)
    scores = SCORES_WITHOUT_MESH if result is None else SCORES_WITHOUT_MESH | dict(result.scores)
    if names not in scores:
        raise UserError(f"objective is {names}; the scores of a run are {', '.join(sorted(scores))}")
    return scores[names]
