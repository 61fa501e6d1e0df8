"""`mode=train`: assembly. Prompt and configuration -> a trained scene, its mesh, turntable and page."""

from __future__ import annotations

import logging
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from dreamfusion.callback import Checkpoints, Previews, StopOnInterrupt
from dreamfusion.camera.data import CameraData
from dreamfusion.camera.orbit import Orbit
from dreamfusion.checkpoint import load_scene, run_of
from dreamfusion.config import plain
from dreamfusion.error import INTERRUPTED, UserError, check_positive
from dreamfusion.logger import close
from dreamfusion.mode.export import check_export
from dreamfusion.mode.summary import finish
from dreamfusion.ops.allocator import keep_large_blocks
from dreamfusion.progress import Progress
from dreamfusion.system import DreamFusion

log = logging.getLogger(__name__)
LONGEST_PROMPT = 2000  # characters; text encoders read far less


def run(
    cfg: DictConfig,
    preview_every: int,
    preview_size: int,
    checkpoint_every: int,
    turntable_frames: int,
    turntable_size: int,
) -> Path:
    """Train, export and summarise; returns the run's folder. With `checkpoint`, a path, the run there goes on.

    Raises:
        UserError: a setting that a part refuses.
        SystemExit: with status 130, after a Ctrl-C and a last checkpoint.
    """
    started = time.monotonic()
    check(cfg)
    check_positive("mode", preview_size=preview_size, turntable_frames=turntable_frames, turntable_size=turntable_size)
    resume = None if cfg.checkpoint is None else Path(cfg.checkpoint)
    folder = shortened(Path(HydraConfig.get().runtime.output_dir)) if resume is None else run_of(resume)
    checkpoints = Checkpoints(folder / "checkpoints" / "last.ckpt", checkpoint_every)
    stop = StopOnInterrupt()
    keep_large_blocks()
    torch.manual_seed(cfg.seed)  # of the initial weights
    with settings_refused():
        orbit: Orbit = instantiate(cfg.camera)
        system = assemble(cfg)
        loggers: list[Logger] = instantiate(cfg.logger)(folder=folder, name=str(cfg.prompt))
        previews = Previews(orbit, folder / "previews", preview_every, preview_size)
        trainer: L.Trainer = instantiate(cfg.trainer)(
            logger=loggers,
            callbacks=[Progress(), stop, previews, checkpoints],
            default_root_dir=folder,
            enable_checkpointing=False,
        )
        cameras = CameraData(orbit, system.views, system.size, trainer.max_steps, cfg.seed)
    try:
        if trainer.is_global_zero:
            save_settings(cfg, folder, loggers)
        trainer.fit(system, cameras, ckpt_path=None if resume is None else str(resume), weights_only=True)
        checkpoints.save(trainer)
        if stop.interrupted:
            log.info("stopped at step %d of %d; to go on:", trainer.global_step, trainer.max_steps)
            log.info("  %s", going_on(folder))
            raise SystemExit(INTERRUPTED)
        if trainer.is_global_zero:
            finish(load_scene(checkpoints.path), cfg, turntable_frames, turntable_size, time.monotonic() - started)
    finally:
        close(loggers)
    return folder


def assemble(cfg: DictConfig) -> DreamFusion:
    """Every part that the configuration names, put together."""
    prior = instantiate(cfg.guidance)
    prompting = instantiate(cfg.prompting)
    system: DreamFusion = instantiate(cfg.system)(
        field=instantiate(cfg.field),
        background=instantiate(cfg.background),
        renderer=instantiate(cfg.renderer),
        prompting=prompting,
        distillation=instantiate(cfg.distillation, prior=prior),
        text_table=prompting.encode(prior, str(cfg.prompt)),
        config=plain(cfg),
    )
    return system


@contextmanager
def settings_refused() -> Iterator[None]:
    """What a part says of its settings while it is built is for the user.

    Raises:
        UserError: in place of the part's own error.
    """
    try:
        yield
    except (ValueError, TypeError, MisconfigurationException) as error:
        raise UserError(str(error)) from error


def save_settings(cfg: DictConfig, folder: Path, loggers: Sequence[Logger]) -> None:
    """config.yaml, and the settings beside the numbers wherever these go."""
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, folder / "config.yaml")
    for logger in loggers:
        logger.log_hyperparams(dict(OmegaConf.to_container(cfg, resolve=True)))  # type: ignore[arg-type]


def going_on(folder: Path) -> str:
    """What to type in a shell to go on with the run in `folder`; its settings are in its checkpoint."""
    python = "python" if shutil.which("python") == sys.executable else str(shortened(Path(sys.executable)))
    return shlex.join([python, sys.argv[0], f"checkpoint={folder}"])


def shortened(path: Path) -> Path:
    """The path from the working directory, where that is shorter to read."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def check(cfg: DictConfig) -> None:
    """Raises: UserError: a prompt, seed, number of steps or mesh that no run can have."""
    check_prompt(cfg.prompt)
    if not isinstance(cfg.seed, int) or not 0 <= cfg.seed < 2**32:
        raise UserError(f"seed is {cfg.seed}; it must be a whole number from 0 to {2**32 - 1}")
    check_positive("trainer", max_steps=cfg.trainer.max_steps)
    check_export(cfg.export)


def check_prompt(prompt: object) -> None:
    """Raises: UserError: no prompt, an empty one, one that is too long, or no text."""
    if prompt is None or not str(prompt).strip():
        raise UserError('there is no prompt; type prompt="a cat"')
    if len(str(prompt)) > LONGEST_PROMPT:
        raise UserError(f"the prompt has {len(str(prompt))} characters; at most {LONGEST_PROMPT} are allowed")
    try:
        str(prompt).encode()
    except UnicodeEncodeError as error:
        raise UserError("the prompt is not valid UTF-8; is the terminal set to UTF-8?") from error
