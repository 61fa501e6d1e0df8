"""Run the chosen mode, and turn what a user can cause into one sentence instead of a traceback."""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dreamfusion.cli.console import tidy
from dreamfusion.cli.startup import settle
from dreamfusion.cli.validation import check_kinds
from dreamfusion.config import resumed
from dreamfusion.error import UserError, file_error

log = logging.getLogger(__name__)


def run_mode(cfg: DictConfig) -> object:
    """Call `conf/mode/<mode>.yaml`'s function with the composed configuration.

    Raises:
        SystemExit: with the message of an error that the user can put right.
        UserError: the same in a multirun, whose other runs go on.
    """
    from torch import OutOfMemoryError

    from dreamfusion.guidance.prior import GuidanceError
    from dreamfusion.mesh.density_grid import EmptyFieldError

    tidy()
    try:
        check_kinds(cfg)
        if HydraConfig.get().runtime.choices["mode"] == "train" and cfg.checkpoint is not None:
            cfg = continued(cfg, HydraConfig.get().overrides.task)
        mode = instantiate(cfg.mode)
        settle()
        _check_settings(mode, cfg)
        return mode(cfg)
    except (InstantiationException, UserError, EmptyFieldError, GuidanceError, OSError) as error:
        reason = error.__cause__ if isinstance(error, InstantiationException) else error
        if not isinstance(reason, ValueError | TypeError | OSError | ImportError | GuidanceError):
            raise
        raise _ending(file_error(reason) if isinstance(reason, OSError) else str(reason)) from error
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError | OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise _ending(
            "there is not enough memory; lower system.size, system.views, field.log2_table_size, export.resolution or "
            "mode.size"
        ) from error


def _ending(message: str) -> Exception | SystemExit:
    """What ends the run, and in a multirun nothing but this run; a folder that was made for nothing goes."""
    hydra = HydraConfig.get()
    _remove_empty(Path(hydra.runtime.output_dir))
    return UserError(message) if hydra.mode == RunMode.MULTIRUN else SystemExit(f"error: {message}")


def continued(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The settings of the run that `cfg.checkpoint` belongs to, except for what the command line names.

    `checkpoint` becomes the path of the file.
    """
    from dreamfusion.checkpoint import find_checkpoint, read_checkpoint

    path = find_checkpoint(cfg.checkpoint)
    content = read_checkpoint(path)
    saved, step = content["config"], content["global_step"]
    named = [override for override in overrides if override != "mode=train"]  # which it is already
    settings = resumed(OmegaConf.create(saved), cfg, named)
    settings.checkpoint = str(path)
    if step >= settings.trainer.max_steps:
        log.info("%s is at step %d already; to train on, add trainer.max_steps=%d", path, step, 2 * step)
    return settings


def _check_settings(mode: Any, cfg: DictConfig) -> None:
    """An experiment may bring settings of another mode.

    Raises:
        UserError: `mode`, a partial call, has a setting too many or too few.
    """
    try:
        inspect.signature(mode.func).bind(cfg, **mode.keywords)
    except TypeError as error:
        raise UserError(f"mode={HydraConfig.get().runtime.choices['mode']} {error}; see --cfg job -p mode") from error


def _remove_empty(folder: Path) -> None:
    """The folder that Hydra made for a run that came to nothing, and those around it up to outputs/."""
    if "outputs" in folder.parent.parts:
        with contextlib.suppress(OSError):  # not empty: somebody's work
            while folder.name != "outputs":
                folder.rmdir()
                folder = folder.parent
