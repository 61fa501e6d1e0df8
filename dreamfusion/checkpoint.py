"""Stage 13: a trained scene from a checkpoint file; needs no guidance, no prompt and no CUDA."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, InterpolationResolutionError

from dreamfusion.camera.orbit import Orbit
from dreamfusion.error import UserError
from dreamfusion.scene.base import Scene
from dreamfusion.untrusted import checked_configuration


class CheckpointError(UserError):
    """No usable checkpoint; says what was looked for and what to type."""


@dataclass(frozen=True, eq=False)
class TrainedScene:
    """The content of a checkpoint, ready to render."""

    scene: Scene
    camera: Orbit
    config: DictConfig  # as the run was composed
    step: int
    path: Path

    @property
    def run(self) -> Path:
        """The folder of the run that the checkpoint belongs to."""
        return run_of(self.path)


def run_of(checkpoint: Path) -> Path:
    """The folder of a run: around checkpoints/, or where a lone file lies."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The file's content, tensors on the CPU.

    Raises:
        CheckpointError: not a checkpoint of this project, or broken.
        UntrustedError: its configuration is not plain data, or names code that no option of conf/ names.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, LookupError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}); is the file complete?"
        ) from error
    wanted = {"config": dict, "state_dict": dict, "global_step": int}
    if not isinstance(content, dict) or not all(isinstance(content.get(k), kind) for k, kind in wanted.items()):
        raise CheckpointError(f"{path} is no checkpoint of a dreamfusion run: its configuration is missing")
    return content | {"config": checked_configuration(content["config"], path)}


def load_scene(path: Path) -> TrainedScene:
    """Build the scene that the checkpoint's own configuration describes, and load its weights.

    Raises:
        CheckpointError: not a checkpoint of this project, broken, or of a version of it that had other settings.
    """
    content = read_checkpoint(path)
    config = OmegaConf.create(content["config"])
    prefix = "scene."
    state = {k.removeprefix(prefix): v for k, v in content["state_dict"].items() if k.startswith(prefix)}
    try:
        # A copy: instantiating the scene resolves the groups that it refers to, in place.
        scene, camera = instantiate(config.copy().scene), instantiate(config.camera)
        scene.load_state_dict(state)
    except (InstantiationException, ConfigAttributeError, InterpolationResolutionError, RuntimeError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise CheckpointError(f"{path} does not fit this version of dreamfusion: {reason}") from error
    scene.eval().requires_grad_(False)
    return TrainedScene(scene, camera, config, content["global_step"], path)
