"""Settings of the wrong kind are refused before anything is built: what is typed is held against the options' files.

The kind of a setting is that of its value there: true or false, a whole number, or a number, which may be a schedule
instead. Where the file has text, a list or null, the part that takes it decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from dreamfusion.error import UserError

TRAINER = "trainer"  # takes devices=auto, limit_train_batches=0.5 and the like, and says what it does not
SCHEDULES = ("camera.size",)  # whole numbers that may be a schedule


def check_types(cfg: DictConfig) -> None:
    """Raises: UserError: a setting of the command line is not of the kind that its option's file has."""
    hydra = HydraConfig.get()
    typed = OverridesParser.create().parse_overrides(list(hydra.overrides.task))
    settings = [one.key_or_group for one in typed if not one.is_delete()]
    aside = (TRAINER, "prompt", *hydra.runtime.choices)
    names = [name for name in settings if name not in aside and name.split(".")[0] != TRAINER]
    if names and GlobalHydra.instance().is_initialized():
        own = file_defaults(hydra.runtime.choices)
        for name in names:
            compare(name, _select(own, name), _select(cfg, name))


def file_defaults(choices: Mapping[str, str | None]) -> DictConfig:
    """The configuration of these options without any setting of a command line, a study or an experiment."""
    groups = [
        f"{group}={option}"
        for group, option in choices.items()
        if option is not None and group != "experiment" and not group.startswith("hydra")
    ]
    return GlobalHydra.instance().config_loader().load_configuration("config", groups, run_mode=RunMode.RUN)


def compare(name: str, own: object, given: object) -> None:
    """Raises: UserError: `given`, the setting `name`, or a part of it, is of another kind than `own`."""
    if isinstance(own, dict) and isinstance(given, dict):
        for key in own.keys() & given.keys():
            compare(f"{name}.{key}", own[key], given[key])
    elif (wanted := _wanted(name, own, given)) is not None:
        shown = "null" if given is None else given
        raise UserError(f"{name} is {shown}; it is {wanted}")


def _wanted(name: str, own: object, given: object) -> str | None:
    """What `given` should be; None if it is."""
    if isinstance(own, dict):
        return f"a group of settings, such as {name}.{next(iter(own))}=..." if own else None
    if isinstance(own, bool):
        return None if isinstance(given, bool) else f"true or false: type {name}={str(own).lower()}"
    if isinstance(own, int) and not (name in SCHEDULES and isinstance(given, list)):
        whole = isinstance(given, int) and not isinstance(given, bool)
        return None if whole else f"a whole number: type {name}={own}"
    if isinstance(own, float) and not isinstance(given, list):
        number = isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given)
        return None if number else f"a number: type {name}={own}"
    return None


def _select(cfg: DictConfig, name: str) -> object:
    """The value of a dotted name as plain containers; None if there is none."""
    value = OmegaConf.select(cfg, name)
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
