"""Stage 13: a trained scene from a file, with neither guidance nor prompt nor the device it was trained on."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError
from torch import nn

from dreamfusion.camera.orbit import Orbit
from dreamfusion.error import UserError
from dreamfusion.runs.study import STUDIES, study_folder
from dreamfusion.scene.nerf.field import Field
from dreamfusion.scene.nerf.renderer import Renderer
from dreamfusion.untrusted import checked_configuration

RUNS = Path("outputs/train")
PARTS = ("field", "background", "renderer")  # what a scene is made of, and a checkpoint holds the weights of


class CheckpointError(UserError):
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
        return run_of(self.path)


def run_of(checkpoint: Path) -> Path:
    """The folder of a run: around checkpoints/, or where a lone file lies."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent


def find_checkpoint(choice: str, *folders: Path) -> Path:
    """`latest`: the newest run's last checkpoint under `folders`; else a checkpoint file, or a run's folder.

    Without `folders` they are those of all runs, alone or in a study.

    Raises:
        CheckpointError: there is none.
    """
    if choice == "latest":
        folders = folders or (RUNS, STUDIES)
        runs = (path for folder in folders for path in folder.glob("**/checkpoints/last.ckpt"))
        found = sorted(runs, key=lambda path: path.stat().st_mtime)
        if not found:
            raise CheckpointError(f'no run under {folders[0]} has a checkpoint yet; type prompt="a cat" to make one')
        return found[-1]
    path = Path(choice).expanduser()
    if path.is_dir():
        path = path / "checkpoints" / "last.ckpt"
    if not path.is_file():
        raise CheckpointError(
            f"no checkpoint at {path}; type checkpoint=latest, or the path of a run or of a .ckpt file"
        )
    return path


def many(cfg: DictConfig) -> str | None:
    """What `find_runs` is asked for: `run`, or the folder of `study`; None for a single run."""
    if cfg.run is not None:
        return str(cfg.run)
    return None if cfg.study is None else str(study_folder(str(cfg.study)))


def find_runs(choice: str, runs: Path = RUNS, studies: Path = STUDIES) -> list[Path]:
    """The folders of runs with a checkpoint that `choice` names, in the order of their names.

    `all`: every one under `runs` and `studies`; a run's folder, or one that holds runs; a glob of such folders; or the
    name of a study.

    Raises:
        CheckpointError: there is none.
    """
    path = Path(choice).expanduser()
    if choice == "all":
        tops = [runs, studies]
    elif choice.strip() and path.exists():
        tops = [path]
    elif any(character in choice for character in "*?["):
        tops = list(Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))))
    else:
        tops = [study_folder(choice, studies)] if choice.strip() else []
    found = sorted({run_of(checkpoint) for top in tops for checkpoint in top.glob("**/checkpoints/last.ckpt")})
    if not found:
        raise CheckpointError(
            f"no run at {choice}; type run=all, a run's folder, a folder of runs, a glob such as "
            f"run='{runs}/a-*/*', or the name of a study"
        )
    return found


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


def load_scene(path: Path) -> Scene:
    """Build the scene that the checkpoint's own configuration describes, and fill it.

    Raises:
        CheckpointError: not a checkpoint of this project, broken, or of a version of it that had other settings.
    """
    content = read_checkpoint(path)
    config = OmegaConf.create(content["config"])
    try:
        parts = {name: instantiate(config[name]) for name in PARTS}
        for name, part in parts.items():
            prefix = f"{name}."
            state = {k.removeprefix(prefix): v for k, v in content["state_dict"].items() if k.startswith(prefix)}
            part.load_state_dict(state)
            part.eval().requires_grad_(False)
        camera = instantiate(config.camera)
    except (InstantiationException, ConfigAttributeError, RuntimeError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise CheckpointError(f"{path} does not fit this version of dreamfusion: {reason}") from error
    return Scene(**parts, camera=camera, config=config, step=content["global_step"], path=path)
