"""Studies: groups of runs in outputs/studies/<name>/<prompt>/<digest of the settings>/, read from their results."""

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path

from dreamfusion.error import UserError
from dreamfusion.runs.names import STUDIES, study_folder
from dreamfusion.runs.options import by_option
from dreamfusion.runs.record import EXPERIMENT
from dreamfusion.runs.results import FAILURE, RESULT, Result, read_result

log = logging.getLogger(__name__)


def existing_study(name: str, studies: Path = STUDIES) -> Path:
    """The folder of a study.

    Raises:
        UserError: the study does not exist; the message lists the existing ones.
    """
    folder = study_folder(name, studies)
    if not folder.is_dir():
        raise UserError(f"no study is named {name}; type study=NAME ({known_studies(studies)})")
    return folder


def finished(folder: Path) -> list[Result]:
    """The finished runs of a study, sorted by prompt, differing settings and seed; names broken ones and omits them."""
    return _in_order(_read(folder, RESULT))


def ended(folder: Path) -> list[Result]:
    """The same with the runs that failed, see `Result.failed`."""
    return _in_order([*_read(folder, RESULT), *(run for run in _read(folder, FAILURE) if _failed(run.path))])


def _read(folder: Path, name: str) -> list[Result]:
    found = []
    for path in folder.glob(f"*/*/{name}"):
        try:
            found.append(read_result(path.parent, name))
        except UserError as error:
            log.warning("left out: %s", error)
    return [result for result in found if result is not None]


def _failed(run: Path) -> bool:
    """Whether the run in a folder failed; a result is newer, because a run that begins removes its failure first."""
    return (run / FAILURE).is_file() and not (run / RESULT).is_file()


def _in_order(runs: list[Result]) -> list[Result]:
    runs = by_option(runs, differing(runs))
    names = differing(runs)
    return sorted(runs, key=lambda r: (r.prompt, [_rank(r.settings.get(name)) for name in names], r.seed, r.path))


def _rank(value: object) -> tuple[float, str]:
    """Sorts numbers by size, and before texts."""
    return (value, "") if isinstance(value, int | float) else (math.inf, str(value))


def known_studies(studies: Path = STUDIES) -> str:
    """The names of the existing studies, for an error message."""
    names = sorted(path.name for path in studies.glob("*") if path.is_dir())
    return f"in {studies}: {', '.join(names) or 'none yet'}"


def unfinished(folder: Path) -> list[Path]:
    """The folders of the runs in a study's folder that neither finished nor failed."""
    runs = {path.parent for path in folder.glob("*/*/config.yaml")}
    return sorted(run for run in runs if not (run / RESULT).is_file() and not _failed(run))


def differing(results: Sequence[Result]) -> list[str]:
    """Dotted names of the settings that differ between runs, except prompt and seed, in the order of the settings.

    Omits settings that duplicate another one (system.seed), and settings that some runs lack because they chose another
    option of a group, whose `_target_` differs already. The name of an experiment stands for what it sets.
    """
    names = list(dict.fromkeys(name for result in results for name in result.settings))
    experiments = [str(result.settings.get(EXPERIMENT)) for result in results]
    columns: dict[tuple[str, ...], str] = {}
    for name in ("prompt", "seed", *names):
        values = tuple(json.dumps(result.settings.get(name), default=str) for result in results)
        everywhere = all(name in result.settings for result in results)
        if name not in ("prompt", "seed", EXPERIMENT) and len(set(zip(experiments, values, strict=True))) == len(
            set(experiments)
        ):
            continue  # the same in all runs, or in all runs of an experiment
        if len(set(values)) > 1 and (everywhere or not _chosen(name, results)):
            columns.setdefault(values, name)
    return [name for name in columns.values() if name not in ("prompt", "seed")]


def _chosen(name: str, results: Sequence[Result]) -> bool:
    """Whether the setting follows from the `_target_`s of the groups that contain it, in which the runs differ."""
    parts = name.split(".")
    targets = [".".join([*parts[:depth], "_target_"]) for depth in range(1, len(parts))]
    found: dict[tuple[str, ...], set[str]] = {}
    for result in results:
        option = tuple(str(result.settings.get(target)) for target in targets)
        found.setdefault(option, set()).add(json.dumps(result.settings.get(name), default=str))
    return len(found) > 1 and all(len(values) == 1 for values in found.values())
