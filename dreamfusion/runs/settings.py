"""The settings of a run as plain containers and as dotted names.

No file and no logger gets the value of a resolver such as `${oc.env:KEY}`, which may be a secret: it stays as written.
"""

import re
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dreamfusion.runs.names import identity
from dreamfusion.untrusted import INTERPOLATION

OF_RESTART = ("answer", "restarts", "factor")


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
    """The resolved settings of `identity` by dotted name; of a watchdog that restarts, those of a restart only."""
    kept = {key: value for key, value in resolved(cfg).items() if key in identity(cfg)}
    if "watchdog" in kept:  # its limits would be columns of a table that compares it with other answers
        kept["watchdog"] = {key: value for key, value in kept["watchdog"].items() if key in OF_RESTART}
    return flat(kept)


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """The settings with references to other settings resolved, and with resolvers as written."""
    tree = OmegaConf.create(_literal(plain(cfg)))
    return dict(OmegaConf.to_container(tree, resolve=True))  # type: ignore[arg-type]


def _literal(value: Any) -> Any:
    """Escape each text that calls a resolver, so that OmegaConf resolves it to itself."""
    if isinstance(value, dict):
        return {key: _literal(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_literal(child) for child in value]
    if isinstance(value, str) and any(match["path"] is None for match in INTERPOLATION.finditer(value)):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    return value
