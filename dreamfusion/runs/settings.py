"""The settings of a run as plain containers and as dotted names."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dreamfusion.runs.names import IGNORED


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as plain containers, with unresolved interpolations, for checkpoints."""
    return dict(OmegaConf.to_container(cfg))  # type: ignore[arg-type]


def flat(tree: Mapping[Any, Any], path: str = "") -> dict[str, Any]:
    """Flatten nested dicts to dotted names; a list or an empty dict is one value."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{path}.{key}" if path else str(key)
        leaves |= flat(value, name) if isinstance(value, dict) and value else {name: value}
    return leaves


def run_settings(cfg: DictConfig) -> dict[str, Any]:
    """The resolved settings of a run by dotted name, except IGNORED."""
    tree = dict(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]
    return flat({key: value for key, value in tree.items() if key not in IGNORED})
