"""OmegaConf resolvers for the recipe of a prior and the output folder of a run. Does not import torch."""

import os
import sys
from collections.abc import Iterator
from textwrap import fill

from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from dreamfusion.cli.composition import compose_quickly
from dreamfusion.cli.spelling import studies
from dreamfusion.error import UserError
from dreamfusion.runs.names import digest, run_folder, slug, study_of, subject

WIDTH = 120  # characters of a line of --help


def register() -> None:
    """Register the resolvers, and the faster composition; call before Hydra composes."""
    compose_quickly()
    OmegaConf.register_new_resolver("suits", _suits, replace=True)
    OmegaConf.register_new_resolver("choices", _choices_for_help, replace=True)
    OmegaConf.register_new_resolver("studies", lambda: ", ".join(studies()), replace=True)
    OmegaConf.register_new_resolver("run_folder", _run_folder, replace=True)
    OmegaConf.register_new_resolver("sweep_folder", _sweep_folder, replace=True)
    OmegaConf.register_new_resolver("run_folder_in_sweep", _run_folder_in_sweep, replace=True)


def _choices_for_help() -> str:
    """The lines of `_choices` for `--help`, else nothing: Hydra resolves this at each composition; it takes 0.5 s."""
    return "\n".join(_choices()) if {"--help", "-h"} & set(sys.argv) else ""


def _choices() -> Iterator[str]:
    """The groups of conf/ and of the user's folders with their options, as lines of `--help`."""
    for group in sorted(GlobalHydra.instance().config_loader().list_groups("")):
        if group != "hydra" and (options := list(_options(group))):
            yield fill(f"{group}: {', '.join(options)}", WIDTH, subsequent_indent="    ")


def _options(group: str, within: str = "") -> Iterator[str]:
    """The options of a group and of the folders in it, such as ablation/base of experiment."""
    loader = GlobalHydra.instance().config_loader()
    yield from (within + option for option in sorted(loader.get_group_options(group, ObjectType.CONFIG)))
    for name in sorted(loader.list_groups(group)):
        yield from _options(f"{group}/{name}", f"{within}{name}/")


def _suits(group: str, default: str, guidance: str) -> str:
    """The option of `group` for a prior: that of its recipe, conf/recipe/<guidance>.yaml, if it has one."""
    for source in GlobalHydra.instance().config_loader().get_sources():
        if source.is_config(path := f"recipe/{guidance}"):
            config = OmegaConf.to_container(source.load_config(path).config)
            assert isinstance(config, dict)
            choice = config.get("recipe", {}).get("groups", {}).get(group)
            others = [other for other in config.get("defaults", []) if other != "_self_"]
            return str(choice or (_suits(group, default, others[0]) if others else default))
    return default


def _run_folder(time: str, *, _root_: DictConfig) -> str:
    """The folder in outputs/ of a run that begins at `time`."""
    mode = _mode(_root_)
    study = study_of(_root_.study, _root_.hydra.mode) if mode == "train" else None
    name = time if study is None else digest(_root_)
    return run_folder(mode, subject(_root_), _root_.checkpoint or _root_.config, name, study)


def _sweep_folder(*, _root_: DictConfig) -> str:
    """The folder in outputs/ of a multirun's shared files."""
    trains = _mode(_root_) == "train" and _root_.checkpoint is None
    return f"studies/{slug(str(study_of(_root_.study, RunMode.MULTIRUN)))}" if trains else "."


def _run_folder_in_sweep(time: str, *, _root_: DictConfig) -> str:
    """The run folder relative to the sweep folder, as Hydra needs it."""
    return os.path.relpath(_run_folder(time, _root_=_root_), _sweep_folder(_root_=_root_))


def _mode(root: DictConfig) -> str:
    """Raises: UserError: the command line removed the mode, or names several."""
    mode = root.hydra.runtime.choices.get("mode")
    if not isinstance(mode, str):
        raise UserError("a command has one mode; type mode=train, or another one of --help")
    return mode
