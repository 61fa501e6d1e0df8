"""Checks of configurations from files: plain data only, and only `_target_`s that an option in conf/ has.

A checkpoint may come from an untrusted source. Hydra imports and calls any `_target_`, and OmegaConf resolves
`${oc.env:SECRET}`, so a configuration from a file is checked here before Hydra or OmegaConf reads it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dreamfusion.error import UserError
from dreamfusion.paths import CONFIGURATION

TARGET = "_target_"
CALLING = ("_partial_", "_recursive_", "_convert_")  # how Hydra calls a `_target_`
GROUP = re.compile(r"[\w-]+")  # keys of a configuration: names of groups, each a folder of options
LARGEST = 200_000  # characters of a configuration; ours have 4,000. An alias can multiply itself without bound
MOST = 10_000  # values of a configuration; ours have 400. In a pickle, lists may be shared, and grow like aliases
TRUSTED: list[Path] = []  # see `trust`
SCALARS = (str, int, float, bool, type(None))
# OmegaConf reads `${` as an interpolation unless an odd number of backslashes precedes it. The path of another setting
# is harmless; everything else, such as `${oc.env:HOME}`, calls a resolver.
INTERPOLATION = re.compile(r"(?<!\\)(?:\\\\)*\$\{(?P<path>[A-Za-z_][\w.]*\})?")


def escaped(text: str) -> str:
    """A text as the value of a setting that OmegaConf reads as it is, whatever interpolations it seems to have."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


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
    where an option of the same group has the same `_target_`, called in the same way. An interpolation puts a
    `_target_` at its own path: there the option has to have the same interpolation, as `scene.field: ${field}`.

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
        refused = _refused(content)
    except RecursionError as error:
        raise UntrustedError(f"{source} has a configuration that is nested without end; it is not loaded") from error
    if refused:
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
        if not GROUP.fullmatch(group):
            refused.append(f"{group!r}, which is not the name of a group")
            continue
        for path, node in _nodes(value, group) if value is not second else [(group, value)]:
            if type(node) is dict and (refusal := _refusal(path, node, group)):
                refused.append(refusal)
            elif type(node) is str and _brings_target(node, content, set()) and node not in _allowed(group, path, str):
                refused.append(f"{node} at {path}, where no option refers to it")
    return refused


def _brings_target(value: object, content: Mapping[str, Any], seen: set[str]) -> bool:
    """Whether a setting has a `_target_` in it once all interpolations are resolved; `seen`: those looked at before."""
    for _, node in _nodes(value, ""):
        if type(node) is dict and TARGET in node:
            return True
        if type(node) is str:
            paths = {match["path"][:-1] for match in INTERPOLATION.finditer(node) if match["path"]} - seen
            seen |= paths
            if any(_brings_target(_setting(content, path), content, seen) for path in sorted(paths)):
                return True
    return False


def _setting(content: object, path: str) -> object:
    """The setting at a dotted path, unresolved; None if there is none."""
    for name in path.split("."):
        if type(content) is list and name.isdecimal() and int(name) < len(content):
            content = content[int(name)]
        else:
            content = content.get(name) if type(content) is dict else None
    return content


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
    options, target = _allowed(group, path, dict), node[TARGET]
    known = {option[TARGET] for option in options}
    if type(target) is str and target in known:
        called = [
            {key: node.get(key) for key in CALLING} == {key: option.get(key) for key in CALLING}
            for option in options
            if option[TARGET] == target
        ]
        return None if any(called) else f"{target} at {path} with another {', '.join(CALLING)} than its option"
    allowed = f"allowed there: {', '.join(sorted(known))}" if known else "no _target_ is allowed there"
    return f"{target} at {path}; {allowed}"


def trust(folder: Path) -> None:
    """Allow what the options in a user's folder have, in this process: outside of Hydra, as `--config-dir` does."""
    if folder.absolute() not in TRUSTED:
        TRUSTED.append(folder.absolute())


def configuration_folders() -> list[Path]:
    """conf/ and the folders of users' own options: of `trust` and, under Hydra, of its search path (`--config-dir`)."""
    folders = [CONFIGURATION, *TRUSTED]
    if HydraConfig.initialized():
        sources = HydraConfig.get().runtime.config_sources
        folders += [Path(source.path) for source in sources if source.schema == "file"]
    return list(dict.fromkeys(folders))


def _allowed(group: str, path: str, kind: type) -> list[Any]:
    """What the options of a group have at a path: nodes with a `_target_` (dict), or interpolations (str)."""
    return [node for node in _options(tuple(configuration_folders()), group).get(path, ()) if type(node) is kind]


@cache
def _options(folders: tuple[Path, ...], group: str) -> dict[str, list[Any]]:
    """Dotted path -> the nodes with a `_target_` and the interpolations at that path in the options of a group."""
    found: dict[str, list[Any]] = {}
    for folder, file in ((one, file) for one in folders for file in sorted((one / group).glob("**/*.yaml"))):
        content, place = OmegaConf.to_container(extended(file, folder, folders)), file.parent.relative_to(folder)
        if file.read_text(encoding="utf-8").startswith("# @package _global_"):
            content, place = content.get(group) if isinstance(content, dict) else None, Path(group)
        for path, node in _nodes(content, ".".join(place.parts)):
            if (type(node) is dict and TARGET in node) or (type(node) is str and INTERPOLATION.search(node)):
                found.setdefault(path, []).append(node)
    return found


def extended(file: Path, folder: Path, folders: Sequence[Path]) -> Any:
    """The content of an option in `folder`, unresolved, over that of the options that its `defaults` name.

    `- sds` names one of the same group, in any of the `folders`; `- pocket@first` puts it under the key `first`, and
    `- /field@coarse: hashgrid` names one of another group.
    """
    own: Any = OmegaConf.load(file)
    names = own.pop("defaults", []) if isinstance(own, DictConfig) else []
    merged: Any = OmegaConf.create({})
    for name in names:
        nested = isinstance(name, DictConfig)
        head, _, place = (str(next(iter(name))) if nested else str(name)).partition("@")
        group = Path(head.lstrip("/")) if head.startswith("/") else file.parent.relative_to(folder) / head
        path = Path(f"{group / str(next(iter(name.values()))) if nested else group}.yaml")
        base = next((one for one in (folder, *folders) if (one / path).is_file() and one / path != file), None)
        if base is not None and (place or not nested):
            content = extended(base / path, base, folders)
            for key in reversed(place.split(".") if place else []):
                content = OmegaConf.create({key: content})
            merged = OmegaConf.merge(merged, content)
    return OmegaConf.merge(merged, own)
