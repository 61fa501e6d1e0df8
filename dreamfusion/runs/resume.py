"""The settings of a resumed run: those of its checkpoint, changed by the command line."""

import logging
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from dreamfusion.checkpoint import read_checkpoint
from dreamfusion.error import UserError
from dreamfusion.runs.find import find_checkpoint
from dreamfusion.runs.settings import plain

log = logging.getLogger(__name__)


def resumed_settings(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The settings of the run that `cfg.checkpoint` names, changed by `overrides`; `checkpoint` becomes a path."""
    path = find_checkpoint(cfg.checkpoint)
    content = read_checkpoint(path)
    saved, step = content["config"], content["global_step"]
    named = [override for override in overrides if override != "mode=train"]  # the only mode that resumes
    settings = resumed(OmegaConf.create(saved), cfg, named)
    settings.checkpoint = str(path)
    if step >= settings.trainer.max_steps:
        log.info("%s is already at step %d; to continue training, add trainer.max_steps=%d", path, step, 2 * step)
    return settings


def resumed(saved: DictConfig, composed: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The checkpoint's settings, except for those that the command line names.

    Args:
        saved: the configuration in the checkpoint.
        composed: this command's configuration, which provides the values of the named keys and groups.
        overrides: the command line in Hydra's grammar, such as `trainer.max_steps=3000`.

    Raises:
        UserError: a named setting cannot be changed, such as an experiment.
    """
    settings, named = plain(saved), plain(composed)
    for missing in named.keys() - settings.keys():  # settings added since the run's version
        settings[missing] = named[missing]
    mode = settings.get("mode")
    same = isinstance(mode, dict) and mode.get("_target_") == named["mode"]["_target_"]
    settings["mode"] = named["mode"] | mode if same and mode else named["mode"]
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        try:
            _copy_setting(settings, named, override.key_or_group.split("."))
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{override.input_line} cannot be changed in a resumed run; type single settings, key=value"
            ) from error
    return OmegaConf.create(settings)


def _copy_setting(settings: dict[str, Any], named: dict[str, Any], path: list[str]) -> None:
    """Copy the value at `path` from `named` to `settings`."""
    head, *rest = path
    if rest and isinstance(named[head], dict):
        _copy_setting(settings.setdefault(head, {}), named[head], rest)
    else:
        settings[head] = named[head]
