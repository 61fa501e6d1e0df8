"""What Hydra needs to know of us: where a run writes, text that needs no second quoting, settings of a resumed run.

Light, for `--help` and for every worker process: neither torch nor numpy.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import unicodedata
from collections.abc import Sequence
from typing import Any

from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from dreamfusion.error import UserError

_QUOTED = re.compile(r"""(['"])(?:(?!\1)[^\\]|\\.)*\1""", re.DOTALL)  # one quoted string of Hydra's grammar
TEXTS = ("prompt=", "checkpoint=", "prompts.file=", "run=")  # settings whose value is text, whatever is in it
OWN_FOLDER = {"train": "train", "view": "train", "sample": "sample"}  # of outputs/, by the mode that begins a run there
STUDY = "multirun"  # the study of a multirun that is given no name
# Settings that change nothing of what comes out: two runs that differ in these alone are one run.
ASIDE = ("hydra", "study", "resume", "checkpoint", "logger", "objective", "prompts", "run")


def register() -> None:
    """Make our resolvers known; before Hydra composes."""
    OmegaConf.register_new_resolver("run_folder", _run_folder, replace=True)
    OmegaConf.register_new_resolver("sweep_folder", _sweep_folder, replace=True)
    OmegaConf.register_new_resolver("run_folder_in_sweep", _run_folder_in_sweep, replace=True)


def _run_folder(time: str, *, _root_: DictConfig) -> str:
    """`run_folder` of the configuration that Hydra composed, whose run begins at `time`."""
    mode = str(_root_.hydra.runtime.choices["mode"])
    study = study_of(_root_, _root_.hydra.mode) if mode == "train" else None
    name = time if study is None else digest(_root_)
    return run_folder(mode, _root_.prompt, _root_.checkpoint, name, study)


def _sweep_folder(*, _root_: DictConfig) -> str:
    """Where in outputs/ a multirun writes what belongs to no single run."""
    trains = _root_.hydra.runtime.choices["mode"] == "train" and _root_.checkpoint is None
    return f"studies/{slug(str(study_of(_root_, RunMode.MULTIRUN)))}" if trains else "."


def _run_folder_in_sweep(time: str, *, _root_: DictConfig) -> str:
    """`run_folder`, as Hydra wants it: from `sweep_folder` on."""
    return os.path.relpath(_run_folder(time, _root_=_root_), _sweep_folder(_root_=_root_))


def run_folder(mode: str, prompt: object, checkpoint: str | None, name: str, study: str | None = None) -> str:
    """Where in outputs/ a run writes: training and sampling in a folder of their own, the others beside what they read.

    No folder is made for a run that ends at once, because it has no prompt.
    """
    if mode not in OWN_FOLDER or checkpoint is not None or prompt is None or not str(prompt).strip():
        return "."
    group = OWN_FOLDER[mode] if study is None else f"studies/{slug(study)}"
    return f"{group}/{slug(str(prompt))}/{name}"


def study_of(cfg: DictConfig, hydra_mode: RunMode | None) -> str | None:
    """The study that a run belongs to; None for a run on its own."""
    if cfg.study is not None and str(cfg.study).strip():
        return str(cfg.study)
    return STUDY if hydra_mode == RunMode.MULTIRUN else None


def digest(cfg: DictConfig) -> str:
    """Eight characters that stand for all settings but those ASIDE: the same settings, the same folder of a study."""
    settings = OmegaConf.to_container(OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key not in ASIDE]))
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:8]


def slug(prompt: str, longest: int = 60) -> str:
    """A folder name for a prompt: "A cat's hat!" -> "a-cats-hat"; never empty, never a path."""
    plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower().replace("'", "")
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    if words and len(words) <= longest:
        return words
    mark = hashlib.sha256(prompt.encode(errors="surrogateescape")).hexdigest()[:8]
    return f"{words[: longest - 9].rstrip('-')}-{mark}" if words else f"prompt-{mark}"


def quote_texts(arguments: Sequence[str]) -> list[str]:
    """Quote the values of TEXTS for Hydra's grammar, so that commas, quotes and parentheses are just text.

    A value that is a quoted string already stays as it is. Not in a multirun, where a comma between prompts means one
    run each; there the user quotes.
    """
    if {"-m", "--multirun"} & set(arguments):
        return list(arguments)
    return [_quoted(argument) for argument in arguments]


def _quoted(argument: str) -> str:
    key = next((key for key in TEXTS if argument.startswith(key)), None)
    value = argument.removeprefix(key or "")
    if key is None or not value.strip() or argument in ("checkpoint=null", "run=null") or _QUOTED.fullmatch(value):
        return argument
    # In a quoted string only the quote itself, the backslashes before it, and interpolations are special.
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', value)
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    escaped = re.sub(r"(\\*)\$\{", r"\1\1\\${", escaped)
    return f'{key}"{escaped}"'


def quote_command_line() -> None:
    """Apply `quote_texts` to this process's arguments."""
    sys.argv[1:] = quote_texts(sys.argv[1:])


def resumed(saved: DictConfig, composed: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The settings of a run that goes on: its own, except for what the command line names.

    Args:
        saved: the configuration in the checkpoint.
        composed: this command's; its values are taken for the keys and groups that are named.
        overrides: the command line in Hydra's grammar, such as `trainer.max_steps=3000`.

    Raises:
        UserError: a named setting is none of the configuration's own, such as an experiment.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    settings, named = plain(saved), plain(composed)
    for missing in named.keys() - settings.keys():  # settings that this version has and the run's did not
        settings[missing] = named[missing]
    mode = settings.get("mode")
    same = isinstance(mode, dict) and mode.get("_target_") == named["mode"]["_target_"]
    settings["mode"] = named["mode"] | mode if same and mode else named["mode"]
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        try:
            _graft(settings, named, override.key_or_group.split("."))
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{override.input_line} cannot be changed in a run that goes on; name single settings, key=value"
            ) from error
    return OmegaConf.create(settings)


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as containers that a checkpoint can hold; what refers to another value still does."""
    return dict(OmegaConf.to_container(cfg))  # type: ignore[arg-type]


def _graft(settings: dict[str, Any], named: dict[str, Any], path: list[str]) -> None:
    """Give `settings` the value that `named` has at `path`."""
    head, *rest = path
    if rest and isinstance(named[head], dict):
        _graft(settings.setdefault(head, {}), named[head], rest)
    else:
        settings[head] = named[head]
