"""Checks of configurations from files: plain data only, and only `_target_`s that an option in conf/ has.

A checkpoint may come from an untrusted source. Hydra imports and calls any `_target_`, and OmegaConf resolves
`${oc.env:SECRET}`, so a configuration from a file is checked here before Hydra or OmegaConf reads it.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dreamfusion.error import UserError
from dreamfusion.paths import CONFIGURATION

TARGET = "_target_"
LARGEST = 200_000  # characters of a configuration; ours have 4,000. An alias can multiply itself without bound
MOST = 10_000  # values of a configuration; ours have 400. In a pickle, lists may be shared, and grow like aliases
SCALARS = (str, int, float, bool, type(None))
# OmegaConf reads `${` as an interpolation unless an odd number of backslashes precedes it. The path of another setting
# is harmless; everything else, such as `${oc.env:HOME}`, calls a resolver.
INTERPOLATION = re.compile(r"(?<!\\)(?:\\\\)*\$\{(?P<path>[A-Za-z_][\w.]*\})?")


class UntrustedError(UserError):
    """A configuration from a file was refused; the message names the file and the setting."""


def read_configuration(path: Path) -> dict[str, Any]:
    """The configuration in a YAML file, checked as `checked_configuration` does.

    Raises:
        UntrustedError: the file is missing, is not a configuration, or is not safe.
    """
    return checked_configuration(read_settings(path), path)


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a YAML file as plain containers, unresolved: to be shown, not to be composed or instantiated.

    Raises:
        UntrustedError: the file is missing, too large, or has no settings.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(LARGEST + 1)
        if len(text) > LARGEST or any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise UntrustedError(f"{path} has more than {LARGEST:,} characters or an alias (*name); it is not read")
        content: Any = OmegaConf.to_container(OmegaConf.create(text))  # resolves nothing
        if type(content) is not dict:
            raise UntrustedError(f"{path} has a {type(content).__name__} as its configuration; it is not read")
    except (OSError, yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        if isinstance(error, UntrustedError):
            raise
        reason = error.strerror if isinstance(error, OSError) else type(error).__name__
        raise UntrustedError(f"{path} cannot be read as the config.yaml of a run: {reason}") from error
    return content


def checked_configuration(content: object, source: Path) -> dict[str, Any]:
    """Return `content`, the configuration in the file `source`, if it is safe to compose and instantiate.

    Safe means: only dicts with string keys, lists, strings, numbers, booleans and null (no tuples: OmegaConf turns them
    into lists, whose items Hydra instantiates); interpolations of other settings only; and each `_target_` at a path
    where an option of the same group has the same `_target_`.

    Raises:
        UntrustedError: the configuration is not safe.
    """
    if type(content) is not dict:
        raise UntrustedError(f"{source} has a {type(content).__name__} as its configuration; it is not loaded")
    try:
        for count, (path, value) in enumerate(_nodes(content, "")):
            if count > MOST:
                raise UntrustedError(f"{source} has more than {MOST:,} values in its configuration; it is not loaded")
            _check_plain(path, value, source)
    except RecursionError as error:
        raise UntrustedError(f"{source} has a configuration that is nested without end; it is not loaded") from error
    if refused := _refused(content):
        raise UntrustedError(f"{source} names {'; '.join(refused)}; the file is not loaded")
    return content


def check_own(content: Mapping[str, Any]) -> None:
    """Check the settings of a command before its run, whose checkpoint would be refused later.

    Raises:
        UserError: a `_target_` that no option has, a resolver, or anything else that `checked_configuration` refuses.
    """
    if refused := _refused(content):
        raise UserError(
            f"the command names {'; '.join(refused)}; a checkpoint with it is not read, so write it into an option of "
            "your own (docs/extending.md)"
        )
    for path, value in _nodes(content, ""):
        if type(value) is str and _calls_resolver(value):
            raise UserError(f"{path} is {value}; a checkpoint with it is not read, so type the value itself")
    try:
        checked_configuration(content, Path("the command"))
    except UntrustedError as error:
        raise UserError(f"a checkpoint of this run would not be read: {error}") from error


def _nodes(value: object, path: str) -> Iterator[tuple[str, object]]:
    """Nested values with their dotted paths, outermost first; items of a list share the path of the list."""
    yield path, value
    if type(value) is dict:
        for key, child in value.items():
            yield from _nodes(child, f"{path}.{key}" if path else str(key))
    elif type(value) is list:
        for child in value:
            yield from _nodes(child, path)


def _refused(content: Mapping[str, Any]) -> list[str]:
    """Why `_target_`s are not allowed; `refine` holds settings of a second stage, which replace those of the first."""
    second, refused = content.get("refine"), []
    for group, value in [*content.items(), *(second.items() if type(second) is dict else ())]:
        for path, node in _nodes(value, group) if value is not second else [(group, value)]:
            if type(node) is dict and (refusal := _refusal(path, node, group)):
                refused.append(refusal)
    return refused


def _calls_resolver(text: str) -> bool:
    return any(match["path"] is None for match in INTERPOLATION.finditer(text))


def _check_plain(path: str, value: object, source: Path) -> None:
    if type(value) is dict:
        strange = next((key for key in value if type(key) is not str), None)
        if strange is not None:
            raise UntrustedError(f"{source} has {strange!r} as a key of {path or 'its configuration'}, not text")
        if "_args_" in value:
            raise UntrustedError(f"{source} has positional arguments, _args_, in {path}; it is not loaded")
    elif type(value) is str:
        if _calls_resolver(value):
            raise UntrustedError(
                f"{source} has {value!r} as {path}, which does not refer to a setting; it is not loaded"
            )
    elif type(value) is not list and type(value) not in SCALARS:
        raise UntrustedError(
            f"{source} has a {type(value).__name__} as {path}; allowed are text, numbers, lists and dicts"
        )


def _refusal(path: str, node: Mapping[str, object], group: str) -> str | None:
    """Why the `_target_` of a node at `path` is not allowed there; None if it has none, or one that is."""
    if TARGET not in node:
        return None
    known: set[str] = set().union(
        *(_targets(folder, group).get(path, frozenset()) for folder in configuration_folders())
    )
    target = node[TARGET]
    if type(target) is str and target in known:
        return None
    allowed = f"allowed there: {', '.join(sorted(known))}" if known else "no _target_ is allowed there"
    return f"{target} at {path}; {allowed}"


def configuration_folders() -> list[Path]:
    """conf/ and, under Hydra, the folders of its search path (`--config-dir`), which hold users' own options."""
    folders = [CONFIGURATION]
    if HydraConfig.initialized():
        sources = HydraConfig.get().runtime.config_sources
        folders += [Path(source.path) for source in sources if source.schema == "file"]
    return list(dict.fromkeys(folders))


@cache
def _targets(folder: Path, group: str) -> dict[str, frozenset[str]]:
    """Dotted path -> the `_target_`s at that path in the options of a group, with interpolations unresolved."""
    found: dict[str, set[str]] = {}
    for file in sorted((folder / group).glob("**/*.yaml")):
        content = OmegaConf.to_container(OmegaConf.load(file))
        if file.read_text(encoding="utf-8").startswith("# @package _global_"):
            content = content.get(group) if isinstance(content, dict) else None
        for path, node in _nodes(content, group):
            if type(node) is dict and TARGET in node:
                found.setdefault(path, set()).add(node[TARGET])
    return {path: frozenset(targets) for path, targets in found.items()}
