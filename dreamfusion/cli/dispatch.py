"""Run the chosen mode, and turn what a user can cause into one sentence instead of a traceback."""

from __future__ import annotations

import contextlib
import inspect
import logging
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig

from dreamfusion.cli.console import filter_messages
from dreamfusion.cli.startup import resume_gc
from dreamfusion.cli.validation import check_types
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

    filter_messages()
    try:
        check_types(cfg)
        if HydraConfig.get().runtime.choices["mode"] == "train" and cfg.checkpoint is not None:
            from dreamfusion.runs.resume import resumed_settings  # here: most commands read no checkpoint

            cfg = resumed_settings(cfg, HydraConfig.get().overrides.task)
        _check_settings(cfg.mode)
        mode = instantiate(cfg.mode)
        resume_gc()
        return mode(cfg)
    except (InstantiationException, UserError, EmptyFieldError, GuidanceError, OSError) as error:
        reason = error.__cause__ if isinstance(error, InstantiationException) else error
        if not isinstance(reason, ValueError | TypeError | OSError | ImportError | GuidanceError):
            raise
        raise _run_error(file_error(reason) if isinstance(reason, OSError) else str(reason)) from error
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError | OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise _run_error(
            "there is not enough memory; lower camera.size, camera.views, field.log2_table_size, export.resolution or "
            "mode.size"
        ) from error


def _run_error(message: str) -> Exception | SystemExit:
    """What ends the run, and in a multirun nothing but this run; a folder that was made for nothing goes."""
    hydra = HydraConfig.get()
    _remove_empty(Path(hydra.runtime.output_dir))
    return UserError(message) if hydra.mode == RunMode.MULTIRUN else SystemExit(f"error: {message}")


def _check_settings(mode: DictConfig) -> None:
    """An experiment may set options of another mode.

    Raises:
        UserError: the mode has no such setting, or needs one more.
    """
    settings = {str(key): None for key in mode if not str(key).startswith("_")}
    target = get_object(mode._target_)
    try:
        inspect.signature(target).bind(*([] if inspect.isclass(target) else [None]), **settings)
    except TypeError as error:
        raise UserError(f"mode={HydraConfig.get().runtime.choices['mode']} {error}; see --cfg job -p mode") from error


def _remove_empty(folder: Path) -> None:
    """The folder that Hydra made for a run that came to nothing, and those around it up to outputs/."""
    if "outputs" in folder.parent.parts:
        with contextlib.suppress(OSError):  # not empty: somebody's work
            while folder.name != "outputs":
                folder.rmdir()
                folder = folder.parent
