"""One run: train a scene from a prompt, and write its mesh, turntable and page into the run's folder."""

import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from dreamfusion.camera.data import CameraData
from dreamfusion.camera.orbit import Orbit
from dreamfusion.checkpoint import load_scene, read_checkpoint
from dreamfusion.error import UserError, check_positive, command_line, one_line, typed, user_message
from dreamfusion.evaluation.prior_score import prior_score
from dreamfusion.export.settings import SPLAT, ExportSettings
from dreamfusion.export.splats import splats_of
from dreamfusion.files import check_finite, replacing
from dreamfusion.guidance.prior import check_groups
from dreamfusion.mesh.density_grid import EmptyFieldError
from dreamfusion.ops.allocator import keep_large_blocks
from dreamfusion.ops.memory import accelerator
from dreamfusion.paths import LAST, REFERENCE, run_of
from dreamfusion.ranks import cluster
from dreamfusion.report.picture import write_rgba
from dreamfusion.runs.begin import begin, forget_scores_of_another
from dreamfusion.runs.check import check
from dreamfusion.runs.find import with_start
from dreamfusion.runs.lock import locked
from dreamfusion.runs.names import relative_to_cwd
from dreamfusion.runs.page import LivePage
from dreamfusion.runs.preflight import preflight
from dreamfusion.runs.record import config_dirs, experiment
from dreamfusion.runs.results import COMPARED, FAILURE, Result, read_result, used_file, write_result
from dreamfusion.runs.resume import load_weights, usable_checkpoint
from dreamfusion.runs.scores import Judge, own_scores
from dreamfusion.runs.settings import run_settings
from dreamfusion.runs.summary import add_to_summary
from dreamfusion.training.assemble import assemble, built, callbacks_of, lightning_errors, loggers_of, user_errors
from dreamfusion.training.callbacks import Checkpoints, Previews, StopOnInterrupt, Stopwatch
from dreamfusion.training.loggers import close
from dreamfusion.training.metrics import Metrics, log_results
from dreamfusion.training.progress import Progress
from dreamfusion.training.watchdog import Sick, Watchdog

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
    evaluate: bool  # score the scene as mode=evaluate does, against the laboratory's truth
    evaluate_every: int  # steps between scores of the pictures, see `TrueScores`; 0: never

    def __post_init__(self) -> None:
        counts = ("preview_size", "turntable_frames", "turntable_size", "score_views")
        check_positive("mode", **{name: getattr(self, name) for name in counts})
        for name in ("preview_every", "checkpoint_every", "evaluate_every"):
            if getattr(self, name) < 0:
                raise UserError(f"mode.{name} is {getattr(self, name)}; it must be a number of steps, or 0 for never")


def run_in_study(cfg: DictConfig, folder: Path, outputs: Outputs) -> Path:
    """Run one run of a study: skip it if finished, resume it if unfinished; `resume=false` restarts it.

    Raises:
        UserError: a setting is invalid.
        Locked: another process has locked the run.
    """
    check(cfg)
    cluster(cfg.trainer)
    with _locked_by_first(folder):
        result = read_result(folder) if cfg.resume else None
        if result is not None:
            early = f" ({result.pruned})" if result.pruned else ""
            log.info("%s, seed %s is already finished%s: %s", cfg.prompt, cfg.seed, early, folder)
            return folder
        checkpoint = usable_checkpoint(folder) if cfg.resume else None
        first = rank_zero_only.rank == 0  # type: ignore[attr-defined]
        if first:
            (folder / FAILURE).unlink(missing_ok=True)
        try:
            return _dream(cfg, folder, outputs, checkpoint, "repeat the command to resume")
        except Exception as error:
            if first and not (folder / FAILURE).is_file():  # of the assembly: a row of the study's table, too
                step = 0 if checkpoint is None else int(read_checkpoint(checkpoint)["global_step"])
                _note_failure(error, cfg, step, 0.0, folder)
            raise


def dream(
    cfg: DictConfig, folder: Path, outputs: Outputs, resume: Path | None = None, callbacks: Sequence[L.Callback] = ()
) -> Path:
    """Train in `folder`, from the start or from the checkpoint `resume`; `callbacks` run last.

    Raises:
        UserError: a setting is invalid, the checkpoint does not fit, or there is another run in `folder` which
            `resume=false` does not give up, and nothing in `folder` is changed; or the run failed (a symptom of the
            watchdog, an empty scene, a score that is not finite), and is not finished.
        Locked: another process has locked the run.
        SystemExit: after a signal and a final checkpoint, with status 128 + the signal's number.
    """
    cluster(cfg.trainer)
    if resume is None and cfg.resume and (used := used_file(folder)) is not None:
        raise UserError(
            f"there is a run in {folder} already ({used}); type {typed('checkpoint', folder)} to resume it, "
            "resume=false to replace it, or another hydra.run.dir"
        )
    with _locked_by_first(folder):
        return _dream(cfg, folder, outputs, resume, f"to resume:\n  {resume_command(folder)}", callbacks)


def _locked_by_first(folder: Path) -> AbstractContextManager[None]:
    """The first process of a distributed run locks the folder for all of them."""
    first = rank_zero_only.rank == 0  # type: ignore[attr-defined]
    return locked(folder) if first else nullcontext()


def _dream(
    cfg: DictConfig,
    folder: Path,
    outputs: Outputs,
    resume: Path | None,
    again: str,
    callbacks: Sequence[L.Callback] = (),
) -> Path:
    """See `dream`; `again` says how to resume the run."""
    cfg = with_start(cfg)
    stopwatch = Stopwatch()
    checkpoints = Checkpoints(folder / "checkpoints" / LAST, outputs.checkpoint_every)
    stop = StopOnInterrupt()
    keep_large_blocks()
    torch.manual_seed(cfg.seed)  # for the initial weights
    with user_errors():
        orbit = built(cfg, "camera", Orbit)
        preflight(cfg, folder, outputs)
        system = assemble(cfg, resume is not None)
        if cfg.export.format == SPLAT:
            splats_of(system.scene)
        check_groups(system.distillation.prior, orbit.group)
        load_weights(system, cfg, resume)
        loggers = loggers_of(cfg, folder)
        page = LivePage(folder, cfg)
        previews = Previews(orbit, folder / "previews", outputs.preview_every, outputs.preview_size, page.show)
        score = partial(prior_score, system, orbit, outputs.score_views)
        rows: list[L.Callback] = [*callbacks_of(cfg), Metrics()]
        if outputs.evaluate_every:
            from dreamfusion.runs.evaluate import true_scores  # takes a second, which most runs need not wait

            rows.append(true_scores(cfg, orbit, outputs.evaluate_every, stopwatch))
        pruners = instantiate(cfg.pruning)(folder=folder, measure=score)
        judge = own_scores(cfg.get("scores"))
        watchdogs = [instantiate(cfg.watchdog)] if cfg.watchdog else []
        trainer: L.Trainer = instantiate(cfg.trainer)(
            logger=loggers,
            # `rows` before `checkpoints`: a step's row, with what callbacks log, is on disk before its checkpoint.
            callbacks=[*watchdogs, stopwatch, Progress(), stop, previews, *rows, checkpoints, *pruners, *callbacks],
            default_root_dir=folder,
            enable_checkpointing=False,
            accelerator=accelerator(cfg.trainer.accelerator),
            **cluster(cfg.trainer),
        )
        cameras = CameraData(orbit, trainer.max_steps, cfg.seed)
    status = "failed"
    try:
        failed: str | None = None
        with stop.request:  # until the last checkpoint is written
            if trainer.is_global_zero:
                begin(cfg, folder, loggers, resume is None)
                if system.reference is not None:
                    write_rgba(system.reference.picture(), folder / REFERENCE)
                log.info("writing to %s; from the first preview on, its index.html shows the run", folder)
            try:
                with lightning_errors():
                    trainer.fit(system, cameras, ckpt_path=None if resume is None else str(resume), weights_only=True)
                checkpoints.save(trainer)
            except Sick as error:
                failed = _reason(error, pruners)
        if stop.interrupted:
            log.info("stopped at step %d of %d; %s", trainer.global_step, trainer.max_steps, again)
            raise SystemExit(stop.request.status)
        if trainer.is_global_zero:
            with _resumable(f"interrupted; the scene of step {trainer.global_step} is saved; {again}"):
                _finish(cfg, outputs, trainer, checkpoints.path, score, judge, stopwatch, pruners, failed)
        status = "success" if failed is None else "failed"
    except Exception as error:
        if trainer.is_global_zero:
            _note_failure(error, cfg, trainer.global_step, stopwatch.seconds, folder)
        raise
    finally:
        page.end()
        close(loggers, status)
    return folder


def _reason(error: UserError, pruners: Sequence[L.Callback]) -> str:
    """Why a failed run of a search ended, which gives it the worst scores; any other run fails with `error`."""
    if not pruners:
        raise error
    return str(error)


def _finish(
    cfg: DictConfig,
    outputs: Outputs,
    trainer: L.Trainer,
    checkpoint: Path,
    score: Callable[[], float],
    judge: Judge,
    stopwatch: Stopwatch,
    pruners: Sequence[Any],
    failed: str | None,
) -> None:
    """Write mesh, turntable and page unless the run failed or was pruned, then the result."""
    # Takes a second, which would delay training.
    from dreamfusion.runs.finish import finish, measured, scored

    figures: dict[str, float] = {}
    step, folder = trainer.global_step, run_of(checkpoint)
    forget_scores_of_another(step, folder)
    pruned = failed or next((pruner.reason for pruner in pruners if pruner.reason), None)
    if pruned is None:
        shown = outputs.turntable_frames, outputs.turntable_size, stopwatch.seconds, score
        try:
            scene = load_scene(checkpoint, trainer.strategy.root_device)
            export = ExportSettings.of(cfg.export)
            figures = finish(scene, export, *shown)
            if outputs.evaluate:
                from dreamfusion.runs.evaluate import evaluate_run

                figures |= scored("evaluation", partial(evaluate_run, scene, export))
            own = judge(scene)
            add_to_summary(folder, own)
            figures |= own
        except EmptyFieldError as error:
            pruned = _reason(error, pruners)
    elif failed is None:
        figures = measured(score)
        check_finite(figures)
    if pruned is not None:
        log.info("%s: ended at step %d: %s\n  %s", cfg.prompt, step, pruned, folder)
    log_results(trainer.loggers, folder, step, figures, pruned)
    for logger in trainer.loggers:
        logger.save()  # before the result, which marks the run as finished
    scores = {name: figures[name] for name in (*COMPARED, *(cfg.get("scores") or ())) if name in figures}
    settings = experiment(cfg, folder) | run_settings(cfg)
    outcome = step, stopwatch.seconds, scores, settings, pruned or early_end(trainer)
    write_result(Result(str(cfg.prompt), cfg.seed, *outcome, restarts(trainer)), folder)


def _note_failure(error: Exception, cfg: DictConfig, step: int, seconds: float, folder: Path) -> None:
    """Write why the run failed, for the tables of its study; hides no error, such as a full disk."""
    reason = user_message(error) or one_line(f"{type(error).__name__}: {error}")
    with suppress(OSError, UserError):
        if not (folder / "config.yaml").is_file():
            with replacing(folder / "config.yaml") as draft:
                OmegaConf.save(cfg, draft)
        settings = experiment(cfg, folder) | run_settings(cfg)
        write_result(Result(str(cfg.prompt), cfg.seed, step, seconds, {}, settings, failed=reason), folder)


@contextmanager
def _resumable(message: str) -> Iterator[None]:
    """Log `message` if a signal ends the block."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        log.info("%s", message)
        raise


def restarts(trainer: L.Trainer) -> int:
    """How often the watchdog went back to an earlier state, in all sessions of the run."""
    watchdogs = [one for one in trainer.callbacks if isinstance(one, Watchdog)]  # type: ignore[attr-defined]
    return sum(one.restarted for one in watchdogs)


def early_end(trainer: L.Trainer) -> str | None:
    """The reason why training ended before its last step; None if it has done all of them."""
    if trainer.global_step >= trainer.max_steps:
        return None
    timers = [one for one in trainer.callbacks if isinstance(one, Timer)]  # type: ignore[attr-defined]
    over = any((one.time_remaining() or 0.0) <= 0 for one in timers)
    cause = "trainer.max_time" if over else "a callback or another limit of the trainer"
    return f"ended at step {trainer.global_step} of {trainer.max_steps} by {cause}"


def resume_command(folder: Path) -> str:
    """The shell command that resumes the run in `folder`; its settings are in its checkpoint."""
    program = Path(sys.argv[0])
    found, executable = map(os.path.normcase, (shutil.which("python") or "", sys.executable))  # .EXE is .exe
    python = "python" if found == executable else str(relative_to_cwd(Path(sys.executable)))
    match program.name:
        case "dreamfusion":
            command = ["dreamfusion"]
        case "launch.py":
            command = [python, sys.argv[0]]
        case _:
            command = [python, "-m", "dreamfusion"]
    return command_line([*command, *(f"--config-dir={place}" for place in config_dirs()), f"checkpoint={folder}"])
