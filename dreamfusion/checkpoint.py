"""Stage 13: a trained scene from a file, with neither guidance nor prompt nor the device it was trained on."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from dreamfusion.camera.orbit import Orbit
from dreamfusion.field.base import Field
from dreamfusion.renderer.base import Renderer

RUNS = Path("outputs/train")


class CheckpointError(ValueError):
    """No usable checkpoint; says what was looked for and what to type."""


@dataclass(frozen=True, eq=False)
class Scene:
    """What a checkpoint holds, ready to render."""

    field: Field
    background: nn.Module
    renderer: Renderer
    camera: Orbit
    config: DictConfig  # as the run was composed
    step: int
    path: Path

    @property
    def run(self) -> Path:
        """The folder of the run that the checkpoint belongs to."""
        return self.path.parent.parent if self.path.parent.name == "checkpoints" else self.path.parent


def find_checkpoint(choice: str, runs: Path = RUNS) -> Path:
    """`latest`: the newest run's last checkpoint under `runs`; else a checkpoint file, or a run's folder.

    Raises:
        CheckpointError: there is none.
    """
    if choice == "latest":
        found = sorted(runs.glob("**/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise CheckpointError(f'no run under {runs} has a checkpoint yet; type prompt="a cat" to make one')
        return found[-1]
    path = Path(choice)
    if path.is_dir():
        path = path / "checkpoints" / "last.ckpt"
    if not path.is_file():
        raise CheckpointError(
            f"no checkpoint at {path}; type checkpoint=latest, or the path of a run or of a .ckpt file"
        )
    return path


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The file's content, tensors on the CPU.

    Raises:
        CheckpointError: not a checkpoint of this project, or broken.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError) as error:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}); is it complete?"
        ) from error
    if not isinstance(content, dict) or "config" not in content or "state_dict" not in content:
        raise CheckpointError(f"{path} is no checkpoint of a dreamfusion run: its configuration is missing")
    return content


def load_scene(path: Path) -> Scene:
    """Build the scene that the checkpoint's own configuration describes, and fill it."""
    from hydra.utils import instantiate

    content = read_checkpoint(path)
    config = OmegaConf.create(content["config"])
    parts = {name: instantiate(config[name]) for name in ("field", "background", "renderer")}
    for name, part in parts.items():
        prefix = f"{name}."
        state = {k.removeprefix(prefix): v for k, v in content["state_dict"].items() if k.startswith(prefix)}
        part.load_state_dict(state)
        part.eval().requires_grad_(False)
    return Scene(**parts, camera=instantiate(config.camera), config=config, step=content["global_step"], path=path)
