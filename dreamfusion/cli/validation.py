"""Check the types of command-line settings before anything is built.

A setting must have the type of its default in the YAML file: a boolean, an integer, or a number (or a schedule in its
place). Defaults that are text, a list or null are checked by the component that uses them.
"""

import math
from collections.abc import Mapping

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from dreamfusion.error import UserError

TRAINER = "trainer"  # its group is checked by Lightning: devices=auto, limit_train_batches=0.5
SCHEDULES = ("camera.size",)  # integers that may be a schedule


def check_types(cfg: DictConfig) -> None:
    """Raises: UserError: a command-line setting does not have the type of its default."""
    hydra = HydraConfig.get()
    overrides = OverridesParser.create().parse_overrides(list(hydra.overrides.task))
    settings = [override.key_or_group for override in overrides if not override.is_delete()]
    skipped = (TRAINER, "prompt", *hydra.runtime.choices)
    names = [name for name in settings if name not in skipped and name.split(".")[0] != TRAINER]
    if names and GlobalHydra.instance().is_initialized():
        defaults = file_defaults(hydra.runtime.choices)
        for name in names:
            compare(name, _select(defaults, name), _select(cfg, name))


def file_defaults(choices: Mapping[str, str | None]) -> DictConfig:
    """The configuration of these group choices, without command line, study or experiment."""
    groups = [
        f"{group}={option}"
        for group, option in choices.items()
        if option is not None and group != "experiment" and not group.startswith("hydra")
    ]
    return GlobalHydra.instance().config_loader().load_configuration("config", groups, run_mode=RunMode.RUN)


def compare(name: str, default: object, given: object) -> None:
    """Raises: UserError: the setting `name`, or a nested one, has a value of another type than its default."""
    if isinstance(default, dict) and isinstance(given, dict):
        for key in default.keys() & given.keys():
            compare(f"{name}.{key}", default[key], given[key])
    elif (expected := _expected(name, default, given)) is not None:
        shown = "null" if given is None else given
        raise UserError(f"{name} is {shown}; it must be {expected}")


def _expected(name: str, default: object, given: object) -> str | None:
    """The expected type and an example; None if `given` has that type."""
    if isinstance(default, dict):
        return f"a group of settings, such as {name}.{next(iter(default))}=..." if default else None
    if isinstance(default, bool):
        return None if isinstance(given, bool) else f"true or false: type {name}={str(default).lower()}"
    if isinstance(default, int) and not (name in SCHEDULES and isinstance(given, list)):
        integer = isinstance(given, int) and not isinstance(given, bool)
        return None if integer else f"a whole number: type {name}={default}"
    if isinstance(default, float) and not isinstance(given, list):
        number = isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given)
        return None if number else f"a number: type {name}={default}"
    return None


def _select(cfg: DictConfig, name: str) -> object:
    """The value of a dotted name as plain containers; None if missing."""
    value = OmegaConf.select(cfg, name)
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
