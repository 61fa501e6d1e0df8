"""Where a run's numbers go: metrics.csv always, and TensorBoard or Weights & Biases beside it."""

from __future__ import annotations

import csv as csv_format
import netrc
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from dreamfusion.files import flush, replacing

LONGEST_NAME = 100  # characters of a prompt; W&B refuses names of more than 128


def csv(folder: Path, name: str) -> list[Logger]:
    """metrics.csv in the run's folder."""
    return [MetricsFile(folder / "metrics.csv")]


def tensorboard(folder: Path, name: str) -> list[Logger]:
    """TensorBoard events under tensorboard/ in the run's folder."""
    return [*csv(folder, name), TensorBoardLogger(folder, name="tensorboard", version="")]


def wandb(
    folder: Path, name: str, project: str, group: str | None, tags: Sequence[str], seed: int | None = None
) -> list[Logger]:
    """A W&B run, offline unless an API key is at hand: never a question, never a network without a login.

    A run that goes on stays the same one on the dashboard.
    """
    loggers, mode = csv(folder, name), wandb_mode()
    if mode != "disabled":
        logger = WandbLogger(
            name=name[:LONGEST_NAME] if seed is None else f"{name[:LONGEST_NAME]}, seed {seed}",
            save_dir=folder.absolute(),  # W&B's service keeps the working directory it was started in
            project=project,
            group=group,
            tags=list(tags),
            job_type="train",
            mode=mode,
            id=earlier_id(folder),
            resume="allow" if mode == "online" else None,  # offline it is `wandb sync` that joins them
        )
        loggers.append(logger)
    return loggers


def earlier_id(folder: Path) -> str | None:
    """The W&B run that an earlier session in this folder logged to: wandb/offline-run-<time>-<id>; None if none did."""
    found = [path.name.removeprefix("offline-").split("-", 2)[1:] for path in folder.glob("wandb/*run-*-*")]
    return max(found)[1] if found else None


def close(loggers: Sequence[Logger]) -> None:
    """Write what is left. An open W&B run would swallow that of the next job of a multirun."""
    for logger in loggers:
        logger.finalize("success")
        if isinstance(logger, WandbLogger) and logger.version is not None:  # None: it never began
            logger.experiment.finish()


def wandb_mode() -> Literal["disabled", "offline", "online"]:
    """disabled, offline or online: what WANDB_MODE says, else online where there is a login."""
    if os.environ.get("WANDB_MODE") == "disabled":
        return "disabled"
    return "online" if logged_in() else "offline"


def logged_in() -> bool:
    """Whether W&B has a key: WANDB_API_KEY, or api.wandb.ai in ~/.netrc; WANDB_MODE=offline says no."""
    if os.environ.get("WANDB_MODE") in ("offline", "dryrun"):
        return False
    if os.environ.get("WANDB_API_KEY"):
        return True
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    if not path.is_file():
        return False
    try:
        return netrc.netrc(path).authenticators("api.wandb.ai") is not None
    except netrc.NetrcParseError:
        return False


class MetricsFile(Logger):
    """A CSV with a row for each logged step. A resumed run keeps the rows of the steps before it.

    (Lightning's CSVLogger begins by removing the file.) Rows are appended; the file is written again only when a
    session begins and when a metric has no column yet.
    """

    def __init__(self, path: Path, rows_at_once: int = 10) -> None:
        """Rows go to the file `rows_at_once` at a time, and whenever `save` is called."""
        super().__init__()
        self.path, self.rows_at_once = path, rows_at_once
        self._waiting: list[dict[str, Any]] = []
        self._columns: list[str] | None = None  # of the file; None before this session's first row

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml has them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Metrics of the same step that come one after the other make one row."""
        if step is None:
            raise ValueError("metrics.csv needs to know the step of a row")
        values = {name: value for name, value in metrics.items() if name != "epoch"}
        if self._waiting and self._waiting[-1]["step"] == step:
            self._waiting[-1] |= values
            return
        if len(self._waiting) >= self.rows_at_once:
            self.save()
        self._waiting.append({"step": step} | values)

    @rank_zero_only
    def save(self) -> None:
        """Write the rows that wait; they are on the disk afterwards."""
        if not self._waiting:
            return
        names = {name for row in self._waiting for name in row}
        if self._columns is None or not names <= set(self._columns):
            first = self._waiting[0]["step"]
            before = [row for row in read_rows(self.path) if self._columns is not None or int(row["step"]) < first]
            self._columns = ["step", *sorted(names.union(*before) - {"step"})]
            with replacing(self.path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
                writer = csv_format.DictWriter(file, self._columns, restval="")
                writer.writeheader()
                writer.writerows([*before, *self._waiting])
        else:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv_format.DictWriter(file, self._columns, restval="").writerows(self._waiting)
            flush(self.path)
        self._waiting.clear()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a metrics.csv that was written before; none if there is none."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv_format.DictReader(file) if (row.get("step") or "").isdigit()]
