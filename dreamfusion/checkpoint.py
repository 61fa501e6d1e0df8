"""Stage 13: load a trained scene from a checkpoint file, without a prior, a prompt or CUDA."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dreamfusion.camera.orbit import Orbit
from dreamfusion.checkpoint_file import read_verified
from dreamfusion.error import CheckpointError
from dreamfusion.option_files import added_since
from dreamfusion.paths import run_of
from dreamfusion.scene.base import Scene
from dreamfusion.untrusted import checked_configuration


@dataclass(frozen=True, eq=False)
class TrainedScene:
    """A scene that is ready to render, with its cameras and the configuration of its run."""

    scene: Scene
    camera: Orbit
    config: DictConfig  # the composed configuration of the run
    step: int
    path: Path

    @property
    def run(self) -> Path:
        """Folder of the run that the checkpoint belongs to."""
        return run_of(self.path)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Content of a verified file, with tensors on the CPU.

    Raises:
        CheckpointError: the file is damaged, or not a checkpoint of this project.
        UntrustedError: its configuration is not plain data, or has a `_target_` that no option in conf/ has.
    """
    content = read_verified(path)
    wanted = {"config": dict, "state_dict": dict, "global_step": int}
    fits = isinstance(content, dict) and all(isinstance(content.get(k), kind) for k, kind in wanted.items())
    if not fits or not all(isinstance(name, str) for name in content["state_dict"]):
        raise CheckpointError(f"{path} is not a checkpoint of a dreamfusion run: it has no configuration")
    return content | {"config": completed(checked_configuration(content["config"], path))}


def completed(config: dict[str, Any]) -> dict[str, Any]:
    """A run's configuration with the settings of its options that came after the run, of a second stage too."""
    filled = {group: added_since(group, settings) for group, settings in config.items() if isinstance(settings, dict)}
    if isinstance(second := config.get("refine"), dict):
        filled["refine"] = completed(second)
    return config | filled


def scene_state(content: dict[str, Any]) -> dict[str, Any]:
    """The state of the scene in a checkpoint's content."""
    prefix = "scene."
    return {k.removeprefix(prefix): v for k, v in content["state_dict"].items() if k.startswith(prefix)}


def load_scene(path: Path, device: torch.device | str = "cpu") -> TrainedScene:
    """Build the scene from the checkpoint's own configuration and load its weights, on `device`.

    Raises:
        CheckpointError: the file is damaged, not a checkpoint of this project, or from an incompatible version.
    """
    content = read_checkpoint(path)
    try:
        config = OmegaConf.create(content["config"])
        settings = config.copy()  # instantiating the scene resolves the groups that it refers to, in place
        if OmegaConf.select(settings, "field.precision") == "bfloat16":
            settings.field.precision = "auto"  # this machine may have no such instructions
        scene, camera = instantiate(settings.scene), instantiate(config.camera)
        if not isinstance(scene, Scene) or not isinstance(camera, Orbit):
            raise RuntimeError("its settings are not those of a scene and of cameras")
        scene.load_state_dict(scene_state(content))
    except (InstantiationException, OmegaConfBaseException, RuntimeError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise CheckpointError(f"{path} does not fit this version of dreamfusion: {reason}") from error
    scene.to(device).eval().requires_grad_(False)
    return TrainedScene(scene, camera, config, content["global_step"], path)
