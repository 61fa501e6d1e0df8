"""Loggers of a run: metrics.csv always, TensorBoard or Weights & Biases in addition."""

import csv as csv_format
import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from dreamfusion.error import file_error
from dreamfusion.files import appending, replacing
from dreamfusion.report.curves import read_rows

log = logging.getLogger(__name__)
STEP = re.compile(r"[0-9]{1,18}")
LONGEST_NAME = 100  # characters of a prompt; W&B refuses names of more than 128


def csv(folder: Path, name: str) -> list[Logger]:
    """metrics.csv in the run's folder."""
    return [MetricsFile(folder / "metrics.csv")]


def tensorboard(folder: Path, name: str) -> list[Logger]:
    """TensorBoard events under tensorboard/ in the run's folder."""
    return [*csv(folder, name), _ResumedTensorBoardLogger(folder, name="tensorboard", version="")]


class _ResumedTensorBoardLogger(TensorBoardLogger):
    """Its first entry removes those of an earlier session from that step on, as the rows of metrics.csv."""

    def begin(self, step: int | None) -> None:
        """TensorBoard drops all entries of the folder from `step` on; once, before the first entry of a session."""
        if self._experiment is None:
            self._kwargs["purge_step"] = step

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.begin(step)
        super().log_metrics(metrics, step)

    @rank_zero_only
    def save(self) -> None:
        if self._experiment is not None:  # Lightning saves before the first entry, when the step is not known
            super().save()


def wandb(
    folder: Path, name: str, project: str, group: str | None, tags: Sequence[str], seed: int | None = None
) -> list[Logger]:
    """A W&B run, offline unless logged in: never prompts, and uses no network without a login.

    A resumed run continues its earlier W&B run.
    """
    loggers, mode = csv(folder, name), wandb_mode()
    if mode != "disabled":
        logger = _QuietWandbLogger(
            name=name[:LONGEST_NAME] if seed is None else f"{name[:LONGEST_NAME]}, seed {seed}",
            save_dir=folder.absolute(),  # W&B's service keeps the working directory it was started in
            project=project,
            group=group,
            tags=list(tags),
            job_type="train",
            mode=mode,
            id=earlier_id(folder),
            resume="allow" if mode == "online" else None,  # offline, `wandb sync` joins the sessions
        )
        loggers.append(logger)
    return loggers


class _QuietWandbLogger(WandbLogger):
    """Without W&B's tables at the end, and its warning of a setting that Lightning passes always."""

    def __init__(self, **settings: Any) -> None:
        from wandb import Settings

        super().__init__(settings=Settings(quiet=True), **settings)
        self._wandb_init.pop("anonymous", None)

    def forget_earlier(self) -> None:
        """Begin a W&B run of its own, whatever the folder had before; W&B starts it with the first entry."""
        self._id = self._wandb_init["id"] = None


def earlier_id(folder: Path) -> str | None:
    """The id of this folder's earlier W&B run, from wandb/offline-run-<time>-<id>; None if there is none."""
    found = [path.name.removeprefix("offline-").split("-", 2)[1:] for path in folder.glob("wandb/*run-*-*")]
    return max(found)[1] if found else None


def forget_earlier(loggers: Sequence[Logger]) -> None:
    """Continue no W&B run of an earlier run in the folder."""
    for logger in loggers:
        if isinstance(logger, _QuietWandbLogger):
            logger.forget_earlier()


def close(loggers: Sequence[Logger], status: str = "success") -> None:
    """Finish all loggers; an open W&B run would receive the metrics of the next job of a multirun.

    W&B shows a run as failed unless `status` is "success".
    """
    for logger in loggers:
        logger.finalize(status)
    for wandb_logger in wandb_loggers(loggers):
        if wandb_logger.version is not None:  # None: it was never started
            wandb_logger.experiment.finish(exit_code=0 if status == "success" else 1)


def wandb_loggers(loggers: Sequence[Logger]) -> list[WandbLogger]:
    """The Weights & Biases loggers among `loggers`."""
    return [logger for logger in loggers if isinstance(logger, WandbLogger)]


def log_picture(loggers: Sequence[Logger], name: str, path: Path, step: int) -> None:
    """Show a PNG in Weights & Biases and in TensorBoard, where these log the run."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [str(path)], step=step)
        elif isinstance(logger, TensorBoardLogger):
            if isinstance(logger, _ResumedTensorBoardLogger):
                logger.begin(step)
            with Image.open(path) as image:
                logger.experiment.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")


def wandb_mode() -> Literal["disabled", "offline", "online"]:
    """The mode that WANDB_MODE or W&B's settings choose, but online only if the service accepts the login."""
    import wandb  # imported here and below: takes half a second that most runs do not need

    chosen = wandb.setup().settings.mode
    if chosen in ("online", "run", "shared"):
        return "online" if logged_in() else "offline"
    return "disabled" if chosen == "disabled" else "offline"


@cache
def logged_in() -> bool:
    """Whether W&B finds a key and its service accepts it within 10 s (WANDB_HTTP_TIMEOUT); else says why, once."""
    import wandb

    try:
        if wandb.login(prompt=False, verify=True):
            return True
        reason = "there is no login; `wandb login` makes one"
    except (wandb.Error, OSError, RuntimeError, ValueError) as error:  # no home folder, a wrong WANDB_HTTP_TIMEOUT
        reason = " ".join(str(error).split())
    log.warning(
        "logging to Weights & Biases offline, `wandb sync RUN/wandb/offline-run-*` uploads it later: %s", reason
    )
    return False


class MetricsFile(Logger):
    """A CSV file with a row for each logged step. A resumed run keeps the rows of its earlier steps, which Lightning's
    CSVLogger would delete.

    Appends rows; rewrites the file only at the start of a session and when a new metric needs a column.
    """

    def __init__(self, path: Path, rows_at_once: int = 10) -> None:
        """Write rows in batches of `rows_at_once`, and on `save`."""
        super().__init__()
        self.path, self.rows_at_once = path, rows_at_once
        self._waiting: list[dict[str, Any]] = []
        self._columns: list[str] | None = None  # of the file; None before this session's first write
        self._refused = False  # a write, and the warning is given

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: config.yaml holds the settings."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a row; consecutive calls for the same step share one."""
        if step is None:
            raise ValueError("metrics.csv needs the step of each row")
        values = {name: value for name, value in metrics.items() if name != "epoch"}
        if self._waiting and self._waiting[-1]["step"] == step:
            self._waiting[-1] |= values
            return
        if len(self._waiting) >= self.rows_at_once:
            self.save()
        self._waiting.append({"step": step} | values)

    @rank_zero_only
    def save(self) -> None:
        """Write the waiting rows and flush them to disk; while a spreadsheet locks the file (Windows), they wait on."""
        try:
            self._write()
        except PermissionError as error:
            if not self._refused:
                log.warning("%s; the rows wait in memory", file_error(error))
            self._refused = True

    def _write(self) -> None:
        """Raises: OSError: the file cannot be written, and the rows wait on."""
        if not self._waiting:
            return
        names = {name for row in self._waiting for name in row}
        if self._columns is None or not names <= set(self._columns):
            first = self._waiting[0]["step"]
            before = [row for row in read_rows(self.path) if STEP.fullmatch(row.get("step", ""))]
            if self._columns is None:
                before = [row for row in before if int(row["step"]) < first]
            columns = ["step", *sorted(names.union(*before) - {"step"})]
            with replacing(self.path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
                writer = csv_format.DictWriter(file, columns, restval="")
                writer.writeheader()
                writer.writerows([*before, *self._waiting])
            self._columns = columns
        else:
            with appending(self.path) as file:
                csv_format.DictWriter(file, self._columns, restval="").writerows(self._waiting)
        self._waiting.clear()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        with nullcontext() if status == "success" else suppress(OSError):  # the error that ended the run is reported
            self._write()
