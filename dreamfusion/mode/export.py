"""`mode=export`: export meshes from the checkpoints of one or many runs; needs neither guidance nor prompt."""

import logging
from pathlib import Path

import torch
from omegaconf import DictConfig

from dreamfusion.checkpoint import load_scene
from dreamfusion.export.settings import ExportSettings
from dreamfusion.ops.memory import chosen_device
from dreamfusion.paths import run_of
from dreamfusion.runs.export import describe, export_scene, warn_if_unlike
from dreamfusion.runs.find import over_runs
from dreamfusion.runs.lock import locked

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> list[Path]:
    """Write mesh.<format> into the folder of the run, or of all runs that `run` or `study` names.

    Skips runs that fail, with a warning, unless there is only one.
    """
    settings, device = ExportSettings.of(cfg.export), chosen_device(cfg.trainer.accelerator)
    return over_runs(cfg, lambda checkpoint: _export_one(checkpoint, settings, device), "no mesh")


def _export_one(checkpoint: Path, export: ExportSettings, device: torch.device) -> Path:
    with locked(run_of(checkpoint)):
        exported = export_scene(load_scene(checkpoint, device), export)
    log.info("%s: %s", exported.path, ", ".join(describe(exported)))
    warn_if_unlike(exported)
    return exported.path
