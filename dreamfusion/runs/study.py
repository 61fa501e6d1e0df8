"""A study: runs that belong together under outputs/studies/<name>/<prompt>/<digest of the settings>/.

A run is finished when its `result.json` is there: written last, and whole or not at all. One that was killed has no
result, and goes on from its last checkpoint. What a table or a page shows of a study is read from the results alone.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dreamfusion.config import ASIDE, slug
from dreamfusion.error import UserError
from dreamfusion.files import replacing

log = logging.getLogger(__name__)
STUDIES = Path("outputs/studies")
RESULT = "result.json"
SCORES = ("prior_score", "silhouette_iou", "color_difference")  # of a run's figures, those that compare runs
WITHOUT = {"silhouette_iou": 0.0}  # scores of a run that has no mesh


class Busy(UserError):
    """Another process is at work in the run's folder."""


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


def read_study(name: str, studies: Path = STUDIES) -> list[Result]:
    """The finished runs of a study, by prompt, seed and folder.

    Raises:
        UserError: there is no such study; lists those that are.
    """
    folder = study_folder(name, studies)
    if not folder.is_dir():
        there = sorted(path.name for path in studies.glob("*") if path.is_dir())
        known = f"there are {', '.join(there)}" if there else f"there is none in {studies} yet"
        raise UserError(f"no study is named {name}; {known}; type study=NAME")
    found = [read_result(path.parent) for path in folder.glob(f"*/*/{RESULT}")]
    return sorted((r for r in found if r is not None), key=lambda r: (r.prompt, r.seed, r.path))


def unfinished(name: str, studies: Path = STUDIES) -> list[Path]:
    """Folders of the study's runs that began and have no result."""
    runs = {path.parent for path in study_folder(name, studies).glob("*/*/config.yaml")}
    return sorted(run for run in runs if not (run / RESULT).is_file())


def study_folder(name: str, studies: Path = STUDIES) -> Path:
    """Where the runs of the study `name` are."""
    return studies / slug(name)


def objective(folder: Path, names: str | Sequence[str]) -> float | list[float]:
    """What a search is told of the finished run in `folder`: the score of that name, or a list of several.

    A mesh that could not be made agrees with nothing: its score is WITHOUT.

    Raises:
        UserError: no score of that name; lists those there are.
    """
    if not isinstance(names, str):
        return [float(objective(folder, name)) for name in names]  # type: ignore[arg-type]
    result = read_result(folder)
    scores = WITHOUT if result is None else WITHOUT | dict(result.scores)
    if names not in scores:
        raise UserError(f"objective is {names}; the scores of a run are {', '.join(sorted(scores))}")
    return scores[names]


def differing(results: Sequence[Result]) -> list[str]:
    """Dotted names of the settings in which the runs differ, apart from prompt and seed; in the order of the settings.

    What merely repeats another one (system.seed) is left out, and so is a setting that some runs do not have because
    their choice of a group, whose `_target_` differs, is another one.
    """
    names = list(dict.fromkeys(name for result in results for name in result.settings))
    columns: dict[tuple[str, ...], str] = {}
    for name in ("prompt", "seed", *names):
        values = tuple(json.dumps(result.settings.get(name), default=str) for result in results)
        everywhere = all(name in result.settings for result in results)
        if len(set(values)) > 1 and (everywhere or not _chosen(name, results)):
            columns.setdefault(values, name)
    return [name for name in columns.values() if name not in ("prompt", "seed")]


def _chosen(name: str, results: Sequence[Result]) -> bool:
    """Whether the runs differ in the `_target_` of the group, or of a part of it, that the setting is in."""
    parts = name.split(".")
    targets = [".".join([*parts[:depth], "_target_"]) for depth in range(1, len(parts))]
    return any(len({str(result.settings.get(target)) for result in results}) > 1 for target in targets)


def flat(cfg: DictConfig) -> dict[str, Any]:
    """The settings of a run as dotted names and plain values, without those ASIDE; a list is one value."""

    def leaves(tree: Any, path: str) -> Iterator[tuple[str, Any]]:
        if isinstance(tree, dict) and tree:
            for key, value in tree.items():
                yield from leaves(value, f"{path}.{key}" if path else str(key))
        else:
            yield path, tree

    tree = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(tree, dict)
    return dict(leaves({key: value for key, value in tree.items() if key not in ASIDE}, ""))


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Keep other processes out of a run's folder; the system lets go when this one ends, however it ends.

    Raises:
        Busy: another one has it, such as a worker that outlived its parent.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Busy(f"another process is at work in {folder}; the same command later goes on") from error
    else:
        yield
    finally:
        os.close(handle)
