"""Hydra composes faster: each file is parsed once in a process, and a plain command is composed once.

Imports neither torch nor numpy.
"""

import copy
import re
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.hydra import Hydra
from hydra.plugins.config_source import ConfigResult

from dreamfusion.paths import CONFIGURATION

_PARSED: dict[tuple[str, str, Path, int, int], ConfigResult] = {}
_FOLDER = re.compile(r"\+{0,2}hydra\.(run\.dir|sweep\.dir|sweep\.subdir)=")  # overrides that set no mode
_get_mode, _load_config = Hydra.get_mode, FileConfigSource.load_config


def compose_quickly() -> None:
    """Install both; call before Hydra composes.

    Hydra's classes stay the same objects: launchers send them to workers, in which Hydra registers its own.
    """
    FileConfigSource.load_config = load_config  # type: ignore[assignment, method-assign]
    Hydra.get_mode = get_mode  # type: ignore[assignment, method-assign]


def load_config(source: FileConfigSource, config_path: str) -> ConfigResult:
    """The content of a YAML file, which the caller may change; parsed again after its time or size has changed."""
    path = Path(source.path, source._normalize_file_name(config_path)).resolve()
    if not path.is_file():
        return _load_config(source, config_path)  # raises
    stat = path.stat()
    key = source.provider, source.path, path, stat.st_mtime_ns, stat.st_size
    if key not in _PARSED:
        _PARSED[key] = _load_config(source, config_path)
    return copy.deepcopy(_PARSED[key])


def get_mode(hydra: Hydra, config_name: str | None, overrides: list[str]) -> Any:
    """`hydra.mode`, for which Hydra composes the configuration a first time; None where nothing can set it."""
    if config_name == "config" and not any("hydra" in one and not _FOLDER.match(one) for one in overrides):
        own = all(source.provider != "command-line" for source in hydra.config_loader.get_sources())
        texts = (path.read_text("utf-8") for path in CONFIGURATION.rglob("*.yaml"))
        if own and not any(word in text for text in texts for word in ("MULTIRUN", "searchpath")):
            return None
    return _get_mode(hydra, config_name, overrides)
