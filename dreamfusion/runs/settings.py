"""The settings of a run: as plain containers, as dotted names, and with changes when a run is resumed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dreamfusion.runs.names import ASIDE


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as containers that a checkpoint can hold; what refers to another value still does."""
    return dict(OmegaConf.to_container(cfg))  # type: ignore[arg-type]


def flat(tree: Mapping[Any, Any], path: str = "") -> dict[str, Any]:
    """Nested dicts as dotted names and their values; a list, or an empty dict, is one value."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{path}.{key}" if path else str(key)
        leaves |= flat(value, name) if isinstance(value, dict) and value else {name: value}
    return leaves


def run_settings(cfg: DictConfig) -> dict[str, Any]:
    """The resolved settings of a run by dotted name, without those ASIDE."""
    tree = dict(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]
    return flat({key: value for key, value in tree.items() if key not in ASIDE})
