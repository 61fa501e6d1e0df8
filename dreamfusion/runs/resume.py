"""A run that begins from a checkpoint: a resumed run, with the checkpoint's settings, or a new one (`start`)."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from dreamfusion.checkpoint import completed, load_scene, read_checkpoint, scene_state
from dreamfusion.error import CheckpointError, UserError, typed
from dreamfusion.export.settings import ExportSettings
from dreamfusion.paths import LAST, PREVIOUS, run_of
from dreamfusion.runs.find import find_checkpoint
from dreamfusion.runs.names import IGNORED
from dreamfusion.runs.results import RESULT
from dreamfusion.runs.settings import flat, plain
from dreamfusion.runs.start import MESHES, mesh_of, read_mesh
from dreamfusion.scene.base import Scene
from dreamfusion.system import DreamFusion
from dreamfusion.untrusted import read_configuration

# Of a command, not of its run.
COMMAND = ("config", "study", "checkpoint", "resume", "prompts", "run")

log = logging.getLogger(__name__)
# Groups of settings that a resumed run may change: its length, the files that it writes, and what only accompanies it.
CHANGEABLE = ("mode", "trainer", "export", "callbacks", "scores", "pruning", "watchdog", *IGNORED)


def resumed_settings(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The settings of the run that `cfg.checkpoint` names, changed by `overrides`; `checkpoint` becomes a path.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
        UserError: an override changes a setting that the checkpoint was made with, see CHANGEABLE.
    """
    path = find_checkpoint(cfg.checkpoint)
    content = read_checkpoint(path)
    saved, step = content["config"], content["global_step"]
    named = [override for override in overrides if override != "mode=train"]  # the only mode that resumes
    settings = resumed(OmegaConf.create(saved), cfg, named)
    kept = {key: value for key, value in saved.items() if key not in CHANGEABLE}
    if isinstance(kept.get("field"), dict):  # another processor may lack the run's precision
        kept["field"] = {name: value for name, value in kept["field"].items() if name != "precision"}
    if changed := differences(kept, plain(settings)):
        raise UserError(
            f"{path} was made with {changed}; a resumed run keeps these settings: type {typed('start', path)} "
            f"instead of {typed('checkpoint', cfg.checkpoint)} to begin a new run from its scene"
        )
    settings.checkpoint = str(path)
    if step > settings.trainer.max_steps:
        log.info(
            "%s is already at step %d, beyond trainer.max_steps=%d: nothing is trained; to continue training, type "
            "trainer.max_steps=%d",
            *(path, step, settings.trainer.max_steps, 2 * step),
        )
    elif step == settings.trainer.max_steps and (run_of(path) / RESULT).is_file():
        log.info("%s is already at step %d; to continue training, add trainer.max_steps=%d", path, step, 2 * step)
    elif (before := saved["trainer"]["max_steps"]) != settings.trainer.max_steps:
        log.info(
            "trainer.max_steps was %d and is %d: learning rates, timesteps, image size and regularizers follow the "
            "share of the run that is done, which goes from %.0f %% to %.0f %%",
            *(before, settings.trainer.max_steps, 100 * step / before, 100 * step / settings.trainer.max_steps),
        )
    return settings


def repeated_settings(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The settings in the file `cfg.config`, a run's config.yaml, changed by `overrides`; the study is the command's.

    Raises:
        UserError: the file is not a run's configuration, or an override does not fit it.
    """
    path = Path(str(cfg.config)).expanduser()
    named = [override for override in overrides if override != "mode=train" and not override.startswith("config=")]
    settings = resumed(OmegaConf.create(completed(read_configuration(path))), cfg, named)
    return OmegaConf.merge(settings, {name: cfg[name] for name in COMMAND})  # type: ignore[return-value]


def resumed(saved: DictConfig, composed: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The checkpoint's settings, except for those that the command line names.

    Args:
        saved: the configuration in the checkpoint.
        composed: this command's configuration, which provides the values of the named keys and groups.
        overrides: the command line in Hydra's grammar, such as `trainer.max_steps=3000`.

    Raises:
        UserError: a named setting cannot be changed, such as an experiment.
    """
    settings, named = plain(saved), plain(composed)
    for missing in named.keys() - settings.keys():  # settings added since the run's version
        settings[missing] = named[missing]
    mode = settings.get("mode")
    same = isinstance(mode, dict) and mode.get("_target_") == named["mode"]["_target_"]
    settings["mode"] = named["mode"] | mode if same and mode else named["mode"]
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        try:
            _copy_setting(settings, named, override.key_or_group.split("."))
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{override.input_line} cannot be changed in a resumed run, which keeps its settings; leave it out, or "
                "type single settings, key=value"
            ) from error
    return OmegaConf.create(settings)


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """The settings in `before` that `after` has with other values or lacks: "seed=0, field.levels=8", at most three."""
    others = flat(after)
    found = [f"{name}={value}" for name, value in flat(before).items() if others.get(name) != value]
    return ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")


def usable_checkpoint(run: Path) -> Path | None:
    """The newest readable checkpoint of a run, None if there is none; names the unreadable ones in warnings."""
    for path in (run / "checkpoints" / name for name in (LAST, PREVIOUS)):
        try:
            if path.is_file():
                log.info("resuming from step %d of %s", read_checkpoint(path)["global_step"], path)
                return path
        except CheckpointError as error:
            log.warning("%s", error)
    return None


def load_weights(system: DreamFusion, cfg: DictConfig, resume: Path | None) -> None:
    """Load the state of the checkpoint `resume`, or only the scene that `cfg.start` names, a checkpoint or a mesh file.

    Raises:
        CheckpointError: the checkpoint is missing, damaged, or does not fit the system.
        UserError: the mesh file cannot be the start.
    """
    if resume is None and cfg.get("start") is None:
        return
    if resume is None and str(cfg.start).lower().endswith(MESHES):
        system.scene.start_from(read_mesh(Path(str(cfg.start)).expanduser(), system.scene.radius))
        return
    path = resume or find_checkpoint(str(cfg.start))
    content = read_checkpoint(path)
    state, own = system.scene.adopted(scene_state(content)), system.scene.state_dict()
    fits = {name: value.shape for name, value in state.items()} == {name: value.shape for name, value in own.items()}
    try:
        if resume is not None:
            system.load_state_dict(content["state_dict"])
        elif fits or type(system.scene).start_from is Scene.start_from:
            system.scene.load_state_dict(state)
        else:
            system.scene.start_from(mesh_of(load_scene(path), ExportSettings.of(cfg.export)))
    except RuntimeError as error:
        scene = {key: content["config"].get(key) for key in ("scene", "field", "background", "renderer")}
        made = differences(scene, plain(cfg))
        reason = f"it was made with {made}" if made else str(error).splitlines()[-1].strip()
        raise CheckpointError(f"the scene in {path} does not fit the one to be trained: {reason}") from error


def _copy_setting(settings: dict[str, Any], named: dict[str, Any], path: list[str]) -> None:
    """Copy the value at `path` from `named` to `settings`."""
    head, *rest = path
    if rest and isinstance(named[head], dict):
        _copy_setting(settings.setdefault(head, {}), named[head], rest)
    else:
        settings[head] = named[head]
