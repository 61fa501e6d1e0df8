"""`mode=train`: assembly. Prompt and configuration -> a trained scene, its mesh, turntable and page."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dreamfusion.callback import Previews, StopOnInterrupt
from dreamfusion.camera.data import CameraData
from dreamfusion.checkpoint import find_checkpoint, load_scene, read_checkpoint
from dreamfusion.mode.dispatch import UserError
from dreamfusion.mode.summary import finish
from dreamfusion.ops.allocator import keep_large_blocks
from dreamfusion.system import DreamFusion

log = logging.getLogger(__name__)
LONGEST_PROMPT = 2000  # characters; text encoders read far less


def run(
    cfg: DictConfig, preview_every: int, preview_size: int, turntable_frames: int, turntable_size: int
) -> Path | None:
    """Train, export and summarise; returns the run's folder, None when it was interrupted before the end."""
    started = time.monotonic()
    check_prompt(cfg.prompt)
    resume = None if cfg.checkpoint is None else find_checkpoint(cfg.checkpoint)
    folder = resume.parent.parent if resume is not None else Path(HydraConfig.get().runtime.output_dir)
    if resume is not None:
        read_checkpoint(resume)
    keep_large_blocks()
    torch.manual_seed(cfg.seed)  # of the initial weights
    system = assemble(cfg)
    loggers = instantiate(cfg.logger, folder=folder, name=str(cfg.prompt))
    stop = StopOnInterrupt()
    previews = Previews(instantiate(cfg.camera), folder / "previews", preview_every, preview_size)
    trainer: L.Trainer = instantiate(cfg.trainer)(
        logger=loggers, callbacks=[stop, previews], default_root_dir=folder, enable_checkpointing=False
    )
    OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
    cameras = CameraData(instantiate(cfg.camera), system.views, system.size, trainer.max_steps, cfg.seed)
    checkpoint = folder / "checkpoints" / "last.ckpt"
    try:
        trainer.fit(system, cameras, ckpt_path=None if resume is None else str(resume), weights_only=True)
        trainer.save_checkpoint(checkpoint)
        if stop.interrupted:
            log.info("stopped at step %d; to go on: python launch.py checkpoint=%s", trainer.global_step, folder)
            return None
        if not trainer.is_global_zero:
            return folder
        scene = load_scene(checkpoint)
        finish(scene, cfg, turntable_frames, turntable_size, time.monotonic() - started)
    finally:
        for logger in loggers:
            logger.finalize("success")
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
        text_table=prompting.encode(prior, cfg.prompt),
        config=plain(cfg),
    )
    return system


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as containers that a checkpoint can hold."""
    return dict(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]


def check_prompt(prompt: object) -> None:
    """Raises: UserError: no prompt, an empty one, or one that is too long."""
    if prompt is None or not str(prompt).strip():
        raise UserError('there is no prompt; type prompt="a cat"')
    if len(str(prompt)) > LONGEST_PROMPT:
        raise UserError(f"the prompt has {len(str(prompt))} characters; at most {LONGEST_PROMPT} are allowed")
