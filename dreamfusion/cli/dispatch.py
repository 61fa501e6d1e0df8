"""Run the chosen mode, and report errors that the user can fix as one sentence without a traceback."""

import contextlib
import inspect
import logging
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig

from dreamfusion.cli.console import filter_messages
from dreamfusion.cli.startup import resume_gc
from dreamfusion.cli.validation import check_types
from dreamfusion.error import UserError, user_message
from dreamfusion.runs.check import check_first

log = logging.getLogger(__name__)


def run_mode(cfg: DictConfig) -> object:
    """Call the function of `conf/mode/<mode>.yaml` with the composed configuration.

    Raises:
        SystemExit: with the message of an error that the user can fix.
        UserError: the same in a multirun, so that its other runs continue.
    """
    filter_messages(_run_name(cfg))
    try:
        check_first(HydraConfig.get().runtime.choices["mode"] or "", cfg)  # before anything imports torch
        check_types(cfg)
        if HydraConfig.get().runtime.choices["mode"] == "train" and cfg.checkpoint is not None:
            from dreamfusion.runs.resume import resumed_settings  # imported here: most commands read no checkpoint

            cfg = resumed_settings(cfg, HydraConfig.get().overrides.task)
        elif cfg.config is not None:
            from dreamfusion.runs.resume import repeated_settings

            if HydraConfig.get().runtime.choices["mode"] != "train":
                raise UserError(f"config={cfg.config} repeats a training run, which only mode=train does")
            cfg = repeated_settings(cfg, HydraConfig.get().overrides.task)
        from dreamfusion.ops.backend import make_deterministic, prefer

        prefer(cfg.ops)  # after the settings of the run that is resumed or repeated
        make_deterministic(cfg.deterministic)
        if cfg.get("image") is not None and HydraConfig.get().runtime.choices["mode"] in ("train", "view"):
            from dreamfusion.runs.reference import described

            cfg = described(cfg)
        _check_settings(cfg.mode)
        mode = instantiate(cfg.mode)
        resume_gc()
        return mode(cfg)
    except Exception as error:
        message = user_message(error)
        if message is None:
            raise
        raise _run_error(message) from error


def _run_name(cfg: DictConfig) -> str:
    """Such as "#1 a dog: " for a run of a launcher, such as joblib, that starts several at once; else empty."""
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN or hydra.launcher._target_.endswith(".BasicLauncher"):
        return ""
    return f"#{hydra.job.num} {cfg.prompt}: "


def _run_error(message: str) -> Exception | SystemExit:
    """The exception that ends this run (in a multirun, this run only); removes the run's empty folder."""
    hydra = HydraConfig.get()
    _remove_empty(Path(hydra.runtime.output_dir))
    return UserError(message) if hydra.mode == RunMode.MULTIRUN else SystemExit(f"error: {message}")


def _check_settings(mode: DictConfig) -> None:
    """Check the mode's settings against its signature; an experiment may set options of another mode.

    Raises:
        UserError: a setting is unknown or missing.
    """
    settings = {str(key): None for key in mode if not str(key).startswith("_")}
    target = get_object(mode._target_)
    try:
        inspect.signature(target).bind(*([] if inspect.isclass(target) else [None]), **settings)
    except TypeError as error:
        raise UserError(f"mode={HydraConfig.get().runtime.choices['mode']} {error}; see --cfg job -p mode") from error


def _remove_empty(folder: Path) -> None:
    """Remove the folder that Hydra made for the run, and its empty parents down from outputs/."""
    with contextlib.suppress(OSError):  # not empty
        while "outputs" in folder.parts and folder != Path.cwd():
            folder.rmdir()
            folder = folder.parent
