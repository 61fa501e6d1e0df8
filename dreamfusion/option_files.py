"""The values of the options in conf/, read without composing a configuration."""

from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from dreamfusion.paths import CONFIGURATION

WHOLE = ("regularizer",)  # groups in which a missing setting means none: a run goes on without terms that came later
GLOBAL = "# @package _global_"  # first line of an option that also sets values outside of its group


@cache
def options(group: str) -> dict[str, dict[str, Any]]:
    """The values of each option of a group by its name: nested, unresolved, with those of the options it extends.

    Options that extend no other come first.
    """
    files = (CONFIGURATION / group).glob("*.yaml")
    paths = sorted(files, key=lambda path: ("defaults:" in path.read_text("utf-8"), path))
    return {path.stem: _values(path) for path in paths}


def added_since(group: str, settings: dict[str, Any]) -> dict[str, Any]:
    """`settings` of a group with what they lack of the option with their `_target_`: so old runs go on.

    Of several options the most similar; of equally similar ones one that extends no other.
    """
    target = settings.get("_target_")
    similar = [values for values in options(group).values() if values.get("_target_") == target]
    if target is None or not similar:
        return settings
    return _filled(settings, max(similar, key=lambda values: _agreement(values, settings)))


def _values(path: Path) -> dict[str, Any]:
    content: Any = OmegaConf.to_container(OmegaConf.load(path))
    values: dict[str, Any] = {}
    for name in content.pop("defaults", []):
        if isinstance(name, str) and name != "_self_" and (base := path.with_name(f"{name}.yaml")).is_file():
            values |= _values(base)
    whole = path.read_text(encoding="utf-8").startswith(GLOBAL)
    return values | (content.get(path.parent.name) or {} if whole else content)


def _agreement(values: dict[str, Any], settings: dict[str, Any]) -> int:
    return sum(name in settings and settings[name] == value for name, value in values.items())


def _filled(settings: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """`settings` with the missing ones of `values`, also of nested groups that both have."""
    both = {
        name: settings[name] if name in WHOLE else _filled(settings[name], value)
        for name, value in values.items()
        if isinstance(value, dict) and isinstance(settings.get(name), dict)
    }
    return values | settings | both
