"""`mode=train`: assembly. Prompt and configuration -> a trained scene, its mesh, turntable and page."""

from __future__ import annotations

import logging
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from dreamfusion.camera.data import CameraData
from dreamfusion.camera.orbit import Orbit
from dreamfusion.checkpoint import CheckpointError, load_scene, read_checkpoint, run_of
from dreamfusion.config import plain, study_of
from dreamfusion.error import INTERRUPTED, UserError, check_positive
from dreamfusion.evaluation.prior_score import prior_score
from dreamfusion.export.settings import check_export
from dreamfusion.guidance.prior_cache import resident
from dreamfusion.ops.allocator import keep_large_blocks
from dreamfusion.runs.prompt_list import run_list
from dreamfusion.runs.study import RESULT, SCORES, Result, claimed, flat, objective, read_result, write_result
from dreamfusion.system import DreamFusion
from dreamfusion.training.callbacks import Checkpoints, Previews, StopOnInterrupt, Stopwatch
from dreamfusion.training.loggers import close
from dreamfusion.training.metrics import Metrics, PreviewPictures, show_end
from dreamfusion.training.progress import Progress

log = logging.getLogger(__name__)
LONGEST_PROMPT = 2000  # characters; text encoders read far less


@dataclass(frozen=True)
class Outputs:
    """What a run writes beside its checkpoint: mode=train's settings."""

    preview_every: int  # steps
    preview_size: int  # pixels a side, as the next but one
    checkpoint_every: int  # steps
    turntable_frames: int
    turntable_size: int
    score_views: int

    def __post_init__(self) -> None:
        counts = ("preview_size", "turntable_frames", "turntable_size", "score_views")
        check_positive("mode", **{name: getattr(self, name) for name in counts})
        for name in ("preview_every", "checkpoint_every"):
            if getattr(self, name) < 0:
                raise UserError(f"mode.{name} is {getattr(self, name)}; it is a number of steps, or 0 for never")


def run(
    cfg: DictConfig,
    preview_every: int,
    preview_size: int,
    checkpoint_every: int,
    turntable_frames: int,
    turntable_size: int,
    score_views: int,
) -> Path | float | list[float]:
    """Train, export and summarise; returns the run's folder, or for a search what is to be optimised.

    With `checkpoint`, a path, the run there goes on. In a study, a run that is finished is skipped, and one that began
    goes on. With `prompts.file` it is one run after the other.

    Raises:
        UserError: a setting that a part refuses.
        SystemExit: with status 130, after a Ctrl-C and a last checkpoint.
    """
    outputs = Outputs(preview_every, preview_size, checkpoint_every, turntable_frames, turntable_size, score_views)
    if cfg.prompts.file is not None:
        return run_list(cfg, lambda one, folder: take_part(one, folder, outputs))
    check(cfg)
    hydra = HydraConfig.get()
    folder = shortened(Path(hydra.runtime.output_dir))
    if cfg.checkpoint is not None:
        folder = dream(cfg, run_of(Path(cfg.checkpoint)), outputs, Path(cfg.checkpoint))
    elif study_of(cfg, hydra.mode) is None:
        dream(cfg, folder, outputs)
    else:
        take_part(cfg, folder, outputs)
    return folder if cfg.objective is None else objective(folder, cfg.objective)


def take_part(cfg: DictConfig, folder: Path, outputs: Outputs) -> Path:
    """One run of a study: what an earlier command did of it is not done again, unless with resume=false.

    Raises:
        UserError: a setting that no run can have.
        Busy: another process is at work on it.
    """
    check(cfg)
    # The further processes of a distributed run find the folder claimed by the first one.
    first = getattr(rank_zero_only, "rank", 0) == 0
    with claimed(folder) if first else nullcontext():
        checkpoint = folder / "checkpoints" / "last.ckpt"
        if cfg.resume and read_result(folder) is not None:
            log.info("%s, seed %s is finished already: %s", cfg.prompt, cfg.seed, folder)
            return folder
        if first and not cfg.resume:
            (folder / RESULT).unlink(missing_ok=True)  # first: what is left of the run is then an unfinished one
            checkpoint.unlink(missing_ok=True)
        return dream(cfg, folder, outputs, checkpoint if _is_usable(checkpoint) else None)


def _is_usable(checkpoint: Path) -> bool:
    """Whether there is something to go on from; a file that cannot be read is left aside, with a warning."""
    if not checkpoint.is_file():
        return False
    try:
        step = read_checkpoint(checkpoint)["global_step"]
    except CheckpointError as error:
        log.warning("%s; the run begins anew", error)
        return False
    log.info("going on from step %d of %s", step, checkpoint)
    return True


def dream(
    cfg: DictConfig, folder: Path, outputs: Outputs, resume: Path | None = None, watchers: Sequence[L.Callback] = ()
) -> Path:
    """A run in `folder`, from its beginning or from the checkpoint `resume` on; `watchers` see its steps last."""
    stopwatch = Stopwatch()
    checkpoints = Checkpoints(folder / "checkpoints" / "last.ckpt", outputs.checkpoint_every)
    stop = StopOnInterrupt()
    keep_large_blocks()
    torch.manual_seed(cfg.seed)  # of the initial weights
    with settings_refused():
        orbit: Orbit = instantiate(cfg.camera)
        system = assemble(cfg)
        loggers: list[Logger] = instantiate(cfg.logger)(folder=folder, name=str(cfg.prompt))
        previews = Previews(orbit, folder / "previews", outputs.preview_every, outputs.preview_size)
        pictures = PreviewPictures(previews.folder)
        score = partial(prior_score, system, orbit, outputs.score_views)
        judges = instantiate(cfg.pruning)(folder=folder, measure=score)
        trainer: L.Trainer = instantiate(cfg.trainer)(
            logger=loggers,
            # `Metrics` before `checkpoints`: what a checkpoint counts as done is on the disk before it.
            callbacks=[stopwatch, Progress(), stop, previews, pictures, Metrics(), checkpoints, *judges, *watchers],
            default_root_dir=folder,
            enable_checkpointing=False,
        )
        cameras = CameraData(orbit, system.views, system.size, trainer.max_steps, cfg.seed)
    try:
        if trainer.is_global_zero:
            (folder / RESULT).unlink(missing_ok=True)
            save_settings(cfg, folder, loggers)
        trainer.fit(system, cameras, ckpt_path=None if resume is None else str(resume), weights_only=True)
        checkpoints.save(trainer)
        if stop.interrupted:
            log.info("stopped at step %d of %d; to go on:", trainer.global_step, trainer.max_steps)
            log.info("  %s", going_on(folder))
            raise SystemExit(INTERRUPTED)
        if trainer.is_global_zero:
            pruned = next((judge.reason for judge in judges if judge.reason), None)
            figures = {"prior_score": score()}
            if pruned is None:
                from dreamfusion.mode.summary import finish  # here: a second of imports that no step waits for

                shown = outputs.turntable_frames, outputs.turntable_size, stopwatch.seconds, figures["prior_score"]
                figures = finish(load_scene(checkpoints.path), cfg, *shown) | figures
            else:
                log.info("%s: ended at step %d: %s\n  %s", cfg.prompt, trainer.global_step, pruned, folder)
            show_end(loggers, folder, trainer.global_step, figures, pruned)
            for logger in loggers:
                logger.save()  # before the result, which says that all is there
            scores = {name: figures[name] for name in SCORES if name in figures}
            write_result(
                Result(str(cfg.prompt), cfg.seed, trainer.global_step, stopwatch.seconds, scores, flat(cfg), pruned),
                folder,
            )
    finally:
        close(loggers)
    return folder


def assemble(cfg: DictConfig) -> DreamFusion:
    """Every part that the configuration names, put together."""
    prior = resident(cfg.guidance)
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
    except MisconfigurationException as error:
        raise UserError(f"{error}; on any machine there are trainer.accelerator=cpu trainer.devices=1") from error
    except (ValueError, TypeError) as error:
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
