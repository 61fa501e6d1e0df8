"""One run: train a scene from a prompt, and write its mesh, turntable and page into the run's folder."""

import logging
import shlex
import shutil
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from dreamfusion.camera.data import CameraData
from dreamfusion.camera.orbit import Orbit
from dreamfusion.checkpoint import load_scene, read_checkpoint
from dreamfusion.checkpoint_file import CheckpointError
from dreamfusion.error import INTERRUPTED, UserError, check_positive
from dreamfusion.evaluation.prior_score import prior_score
from dreamfusion.export.settings import ExportSettings
from dreamfusion.files import check_finite
from dreamfusion.guidance.prior import check_groups
from dreamfusion.mesh.density_grid import EmptyFieldError
from dreamfusion.ops.allocator import keep_large_blocks
from dreamfusion.prompting.table import check_prompt
from dreamfusion.runs.lock import locked
from dreamfusion.runs.names import relative_to_cwd
from dreamfusion.runs.preflight import preflight
from dreamfusion.runs.results import RESULT, SCORES, Result, read_result, write_result
from dreamfusion.runs.settings import run_settings
from dreamfusion.training.assemble import assemble, user_errors
from dreamfusion.training.callbacks import Checkpoints, Previews, StopOnInterrupt, Stopwatch
from dreamfusion.training.loggers import close
from dreamfusion.training.metrics import Metrics, log_results
from dreamfusion.training.progress import Progress
from dreamfusion.training.watchdog import Sick

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outputs:
    """The settings of mode=train: the files that a run writes."""

    preview_every: int  # steps; 0: never
    preview_size: int  # pixels a side
    checkpoint_every: int  # steps; 0: only at the end
    turntable_frames: int
    turntable_size: int  # pixels a side
    score_views: int

    def __post_init__(self) -> None:
        counts = ("preview_size", "turntable_frames", "turntable_size", "score_views")
        check_positive("mode", **{name: getattr(self, name) for name in counts})
        for name in ("preview_every", "checkpoint_every"):
            if getattr(self, name) < 0:
                raise UserError(f"mode.{name} is {getattr(self, name)}; it must be a number of steps, or 0 for never")


def run_in_study(cfg: DictConfig, folder: Path, outputs: Outputs) -> Path:
    """Run one run of a study: skip it if finished, resume it if unfinished; `resume=false` restarts it.

    Raises:
        UserError: a setting is invalid.
        Locked: another process has locked the run.
    """
    check(cfg)
    # The first process of a distributed run locks the folder for all of them.
    first = getattr(rank_zero_only, "rank", 0) == 0
    with locked(folder) if first else nullcontext():
        checkpoint = folder / "checkpoints" / "last.ckpt"
        if cfg.resume and read_result(folder) is not None:
            log.info("%s, seed %s is already finished: %s", cfg.prompt, cfg.seed, folder)
            return folder
        if first and not cfg.resume:
            (folder / RESULT).unlink(missing_ok=True)  # removed first: without a result, the run counts as unfinished
            checkpoint.unlink(missing_ok=True)
        return dream(cfg, folder, outputs, checkpoint if _is_usable(checkpoint) else None)


def dream(
    cfg: DictConfig, folder: Path, outputs: Outputs, resume: Path | None = None, callbacks: Sequence[L.Callback] = ()
) -> Path:
    """Train in `folder`, from the start or from the checkpoint `resume`; `callbacks` run last.

    Raises:
        UserError: a setting is invalid, or the run failed: a symptom of the watchdog, an empty scene, a score that is
            not finite. The run does not count as finished.
        SystemExit: with status 130, after Ctrl-C and a final checkpoint.
    """
    stopwatch = Stopwatch()
    checkpoints = Checkpoints(folder / "checkpoints" / "last.ckpt", outputs.checkpoint_every)
    stop = StopOnInterrupt()
    keep_large_blocks()
    torch.manual_seed(cfg.seed)  # for the initial weights
    with user_errors():
        orbit: Orbit = instantiate(cfg.camera)
        preflight(cfg, folder, outputs)
        system = assemble(cfg)
        check_groups(system.distillation.prior, orbit.group)
        loggers: list[Logger] = instantiate(cfg.logger)(folder=folder, name=str(cfg.prompt))
        previews = Previews(orbit, folder / "previews", outputs.preview_every, outputs.preview_size)
        score = partial(prior_score, system, orbit, outputs.score_views)
        pruners = instantiate(cfg.pruning)(folder=folder, measure=score)
        others = [*(instantiate(cfg.callbacks).values() if cfg.callbacks else ()), *callbacks]
        watchdogs = [instantiate(cfg.watchdog)] if cfg.watchdog else []
        trainer: L.Trainer = instantiate(cfg.trainer)(
            logger=loggers,
            # `Metrics` before `checkpoints`: a step's row must be on disk before its checkpoint.
            callbacks=[*watchdogs, stopwatch, Progress(), stop, previews, Metrics(), checkpoints, *pruners, *others],
            default_root_dir=folder,
            enable_checkpointing=False,
        )
        cameras = CameraData(orbit, trainer.max_steps, cfg.seed)
    try:
        if trainer.is_global_zero:
            (folder / RESULT).unlink(missing_ok=True)
            save_settings(cfg, folder, loggers)
        pruned: str | None = None
        try:
            trainer.fit(system, cameras, ckpt_path=None if resume is None else str(resume), weights_only=True)
            checkpoints.save(trainer)
        except Sick as error:
            pruned = _reason(error, pruners)
        if stop.interrupted:
            log.info("stopped at step %d of %d; to resume:", trainer.global_step, trainer.max_steps)
            log.info("  %s", resume_command(folder))
            raise SystemExit(INTERRUPTED)
        if trainer.is_global_zero:
            figures = {} if pruned else {"prior_score": score()}
            check_finite(figures)
            pruned = pruned or next((pruner.reason for pruner in pruners if pruner.reason), None)
            if pruned is None:
                from dreamfusion.runs.finish import finish  # imported here: takes a second, which would delay training

                shown = outputs.turntable_frames, outputs.turntable_size, stopwatch.seconds, figures["prior_score"]
                try:
                    figures = finish(load_scene(checkpoints.path), ExportSettings.of(cfg.export), *shown) | figures
                except EmptyFieldError as error:
                    pruned = _reason(error, pruners)
            if pruned is not None:
                log.info("%s: ended at step %d: %s\n  %s", cfg.prompt, trainer.global_step, pruned, folder)
            log_results(loggers, folder, trainer.global_step, figures, pruned)
            for logger in loggers:
                logger.save()  # before the result, which marks the run as finished
            scores = {name: figures[name] for name in SCORES if name in figures}
            outcome = trainer.global_step, stopwatch.seconds, scores, run_settings(cfg), pruned
            write_result(Result(str(cfg.prompt), cfg.seed, *outcome), folder)
    finally:
        close(loggers)
    return folder


def _reason(error: UserError, pruners: Sequence[L.Callback]) -> str:
    """Why a failed run of a search ended, which gives it the worst scores; any other run fails with `error`."""
    if not pruners:
        raise error
    return str(error)


def check(cfg: DictConfig) -> None:
    """Raises: UserError: the prompt, seed, number of steps or a mesh setting is invalid."""
    check_prompt(cfg.prompt)
    if not isinstance(cfg.seed, int) or not 0 <= cfg.seed < 2**32:
        raise UserError(f"seed is {cfg.seed}; it must be a whole number from 0 to {2**32 - 1}")
    check_positive("trainer", max_steps=cfg.trainer.max_steps)
    ExportSettings.of(cfg.export)


def _is_usable(checkpoint: Path) -> bool:
    """Whether the checkpoint exists and is readable; warns if it is not readable."""
    if not checkpoint.is_file():
        return False
    try:
        step = read_checkpoint(checkpoint)["global_step"]
    except CheckpointError as error:
        log.warning("%s; the run restarts", error)
        return False
    log.info("resuming from step %d of %s", step, checkpoint)
    return True


def save_settings(cfg: DictConfig, folder: Path, loggers: Sequence[Logger]) -> None:
    """Write config.yaml, and pass the settings to the loggers."""
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, folder / "config.yaml")
    for logger in loggers:
        logger.log_hyperparams(dict(OmegaConf.to_container(cfg, resolve=True)))  # type: ignore[arg-type]


def resume_command(folder: Path) -> str:
    """The shell command that resumes the run in `folder`; its settings are in its checkpoint."""
    program = Path(sys.argv[0])
    python = "python" if shutil.which("python") == sys.executable else str(relative_to_cwd(Path(sys.executable)))
    match program.name:
        case "dreamfusion":
            command = ["dreamfusion"]
        case "launch.py":
            command = [python, sys.argv[0]]
        case _:
            command = [python, "-m", "dreamfusion"]
    return shlex.join([*command, *_config_dirs(), f"checkpoint={folder}"])


def _config_dirs() -> list[str]:
    """The `--config-dir` of this command, whose options the checkpoint may name."""
    if not HydraConfig.initialized():
        return []
    sources = HydraConfig.get().runtime.config_sources
    return [f"--config-dir={source.path}" for source in sources if source.provider == "command-line"]
