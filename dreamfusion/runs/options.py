"""Name the option of a group that a run chose: `distillation sjc` in place of the settings that it sets."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dreamfusion.option_files import options
from dreamfusion.runs.results import Result
from dreamfusion.runs.settings import flat


def by_option(results: Sequence[Result], names: Sequence[str]) -> list[Result]:
    """The results with one setting `group: option` for the settings of each group in which they differ (`names`).

    A group stays as it is if a run's settings are those of none of its options, or of several, or if runs of one option
    differ in a setting that it does not have, such as one that `+` added: it would be in no column.
    """
    results = list(results)
    for group in dict.fromkeys(name.split(".")[0] for name in names if "." in name):
        options = [option_of(group, result.settings) for result in results]
        added = {
            (option, name, str(result.settings.get(name)))
            for result, option in zip(results, options, strict=True)
            for name in names
            if option and name.startswith(f"{group}.") and not _has(group, option, name)
        }
        if all(options) and len(added) == len({one[:2] for one in added}):
            results = [
                replace(result, settings={group: option} | _without(group, result.settings))
                for result, option in zip(results, options, strict=True)
            ]
    return results


def option_of(group: str, settings: Mapping[str, Any]) -> str | None:
    """The option of a group whose own values a run has, apart from references to other settings; None if not one."""
    fits = []
    for option, values in options(group).items():
        own = {f"{group}.{name}": value for name, value in flat(values).items() if "${" not in str(value)}
        if own and all(name in settings and settings[name] == value for name, value in own.items()):
            fits.append(option)
    return fits[0] if len(fits) == 1 else None


def _has(group: str, option: str, name: str) -> bool:
    """Whether an option has a setting, itself or by a reference to the settings of another group."""
    own = [f"{group}.{setting}" for setting in flat(options(group)[option])]
    return any(name == setting or name.startswith(f"{setting}.") for setting in own)


def _without(group: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if not name.startswith(f"{group}.")}
