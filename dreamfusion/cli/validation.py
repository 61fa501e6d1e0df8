"""Check the types of the settings before anything is built.

Hydra passes the settings of a group to its `_target_`, so a setting's type is the annotation of that parameter. Without
one, a boolean or a number must stay what it is in the YAML file. The ranges of values are checked by the components.
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf, open_dict

from dreamfusion.error import UserError, typed
from dreamfusion.paths import CONFIGURATION

OF_THE_RUN: dict[str, Any] = {  # settings of conf/config.yaml without a `_target_` and with the default null
    **dict.fromkeys(("prompt", "image", "checkpoint", "study", "run", "prompts.file"), str | None),
    "objective": str | Sequence[str] | None,
    "callbacks": Mapping[str, dict],
    "scores": Mapping[str, dict],
    "trainer.precision": Any,  # checked by `training.assemble.check_trainer`, whose list is shorter than Lightning's
}
PHRASES = {
    bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "text", NoneType: "null"
}  # fmt: skip
REST = "**"  # key of the annotation of a target's other keyword arguments


def check_groups(arguments: Sequence[str]) -> None:
    """Raises: UserError: an argument sets a group of the command line to something else than the name of an option, or
    the settings of prompt lists at once."""
    for argument in arguments:
        if argument.startswith("prompts="):
            raise UserError(
                f"{argument} sets several settings at once; type {typed('prompts.file', argument[len('prompts=') :])}"
            )
        group = argument.partition("=")[0].lstrip("+")
        if group != argument and group and (CONFIGURATION / group).is_dir():
            override = OverridesParser.create().parse_override(argument)
            options = ", ".join(sorted(path.stem for path in (CONFIGURATION / group).glob("*.yaml")))
            if options and not override.is_sweep_override() and not isinstance(override.value(), str | list):
                raise UserError(f"{argument} names no option; leave it out for the default, or type one of {options}")


def check_types(cfg: DictConfig) -> None:
    """Raises: UserError: a setting of the command line or of an experiment has the wrong type."""
    hydra = HydraConfig.get()
    overrides = OverridesParser.create().parse_overrides(list(hydra.overrides.task))
    unchecked = (*hydra.runtime.choices, "prompt")
    names = [o.key_or_group for o in overrides if not o.is_delete() and o.key_or_group not in unchecked]
    if (names or hydra.runtime.choices.get("experiment")) and GlobalHydra.instance().is_initialized():
        folders = tuple(source.full_path() for source in GlobalHydra.instance().config_loader().get_sources())
        groups = tuple(
            f"{group}={option}" if (CONFIGURATION / group).is_dir() else f"+{group}={option}"  # a user's own group
            for group, option in hydra.runtime.choices.items()
            if option is not None and group != "experiment" and not group.startswith("hydra") and "@" not in group
        )
        compare("", file_defaults(groups, folders), OmegaConf.to_container(cfg, resolve=True))


@cache
def file_defaults(groups: tuple[str, ...], folders: tuple[str, ...]) -> object:
    """The configuration of these group choices, without command line, study or experiment.

    Composed once in a process, in which `folders`, where Hydra looks, tell one command from another.
    """
    cfg = GlobalHydra.instance().config_loader().load_configuration("config", list(groups), run_mode=RunMode.RUN)
    with open_dict(cfg):
        del cfg["hydra"]
    return OmegaConf.to_container(cfg, resolve=True)


def compare(name: str, default: object, given: object, annotation: Any = Any) -> None:
    """Raises: UserError: the setting `name`, or a nested one, differs from its default in type."""
    if type(given) is type(default) and given == default:
        return
    if isinstance(default, dict) and isinstance(given, dict):
        annotations = parameters(given["_target_"]) if "_target_" in given else {}
        if get_origin(annotation) in (Mapping, dict):
            annotations[REST] = get_args(annotation)[1]
        for key, value in given.items():
            inner = f"{name}.{key}" if name else str(key)
            known = OF_THE_RUN.get(inner, annotations.get(key, annotations.get(REST, Any)))
            compare(inner, default.get(key), value, known)
        return
    if annotation is Any and isinstance(default, bool | int | float | dict):
        annotation = type(default)
    if not fits(given, annotation):
        if isinstance(default, dict) and default:
            example = f", such as {name}.{next(iter(default))}=..."
        elif isinstance(given, bool | int | float) and fits(str(given), annotation):
            example = f": type '{name}=\"{str(given).lower()}\"'"
        else:
            shown = str(default).lower() if isinstance(default, bool) else default
            example = "" if default in (None, "") else f": type {name}={shown}"
        raise UserError(f"{name} is {'null' if given is None else given}; it must be {phrase(annotation)}{example}")


def parameters(target: object) -> dict[str, Any]:
    """Name -> annotation of the parameters of a `_target_`, for a class with those of its bases."""
    try:
        found = get_object(str(target))
    except Exception:  # whatever its import raises; Hydra reports it when it builds the target
        return {}
    annotations: dict[str, Any] = {}
    owners = [vars(owner) for owner in reversed(found.__mro__)] if inspect.isclass(found) else [{"__init__": found}]
    for function in (owner["__init__"] for owner in owners if "__init__" in owner):
        for name, parameter in inspect.signature(function).parameters.items():
            rest = parameter.kind is inspect.Parameter.VAR_KEYWORD
            unknown = parameter.annotation is inspect.Parameter.empty
            annotations[REST if rest else name] = Any if unknown else parameter.annotation
    return annotations


def fits(value: object, annotation: Any) -> bool:
    """Whether a parameter of this annotation takes a plain value; other classes than those below take all but null."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation is Any or isinstance(annotation, str):
        return True
    if origin in (Union, UnionType):
        return any(fits(value, one) if _is_plain(one) else isinstance(value, dict) for one in inner)
    if origin is Literal:
        return value in inner
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation in (bool, NoneType, dict):
        return isinstance(value, annotation)
    if annotation in (str, Path):
        return isinstance(value, str)
    if origin in (Sequence, list, tuple):
        return isinstance(value, list) and all(fits(item, inner[0]) for item in value)
    if origin in (Mapping, dict):
        return isinstance(value, dict) and all(fits(item, inner[1]) for item in value.values())
    return value is not None


def phrase(annotation: Any) -> str:
    """An annotation in words, for an error message."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(phrase(one) for one in inner if _is_plain(one)))
    if origin is Literal:
        return " or ".join(map(str, inner))
    if origin in (Sequence, list, tuple):
        return f"a list of {phrase(inner[0]).removeprefix('a ').partition(' of ')[0]}s"
    return PHRASES.get(annotation, "a group of settings" if origin in (Mapping, dict) or annotation is dict else "set")


def _is_plain(annotation: Any) -> bool:
    """Whether YAML has values of the type."""
    return get_origin(annotation) is not None or annotation in (*PHRASES, Any, dict)
