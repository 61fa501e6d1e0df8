"""Where a run's numbers go: metrics.csv always, and TensorBoard or Weights & Biases beside it."""

from __future__ import annotations

import netrc
import os
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger


def csv(folder: Path, name: str) -> list[Logger]:
    """metrics.csv in the run's folder."""
    return [CSVLogger(folder, name="", version="")]


def tensorboard(folder: Path, name: str) -> list[Logger]:
    """TensorBoard events under tensorboard/ in the run's folder."""
    return [*csv(folder, name), TensorBoardLogger(folder, name="tensorboard", version="")]


def wandb(folder: Path, name: str, project: str, group: str | None, tags: Sequence[str]) -> list[Logger]:
    """A W&B run, offline unless an API key is at hand: never a question, never a network without a login."""
    offline = not logged_in()
    logger = WandbLogger(
        name=name, save_dir=folder, project=project, offline=offline, group=group, tags=list(tags), job_type="train"
    )
    return [*csv(folder, name), logger]


def logged_in() -> bool:
    """Whether W&B has a key: WANDB_API_KEY, or api.wandb.ai in ~/.netrc; WANDB_MODE=offline says no."""
    if os.environ.get("WANDB_MODE") in ("offline", "disabled"):
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
