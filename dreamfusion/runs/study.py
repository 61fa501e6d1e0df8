"""A study: runs that belong together under outputs/studies/<name>/<prompt>/<digest of the settings>/.

Tables and pages of a study read only the results of its runs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from dreamfusion.error import UserError
from dreamfusion.runs.names import STUDIES, study_folder
from dreamfusion.runs.results import RESULT, Result, read_result


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
