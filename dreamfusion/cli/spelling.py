"""Answer a misspelt setting, option or study with the one that was meant. Does not import torch."""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import ConfigCompositionException, MissingConfigException

from dreamfusion.error import UserError, command_line
from dreamfusion.paths import CONFIGURATION, SWEEPS

LIKE = 0.6  # least similarity of a suggestion, 0 to 1
PLAIN = re.compile(r"[\w./\[\],+-]*")  # a value without a special character of a shell
EQUAL = 0.05  # suggestions whose similarity differs less are all named
USUAL = {  # names elsewhere -> ours
    **dict.fromkeys(("steps", "iterations", "iters", "epochs", "max_iters"), "trainer.max_steps"),
    **dict.fromkeys(("lr", "learning_rate"), "optimizer.learning_rates"),
    **dict.fromkeys(("text", "caption"), "prompt"),
    **dict.fromkeys(("picture", "photo", "image_path"), "image"),
    **dict.fromkeys(("resolution", "image_size", "width", "height"), "camera.size"),
    "negative_prompt": "prompting.negative",
    **dict.fromkeys(("scale", "cfg_scale", "guidance_scale"), "distillation.guidance_scale"),
    "batch_size": "camera.views",
    "trainer.max_time": "+trainer.max_time",  # of Lightning, without a default in conf/
    "model": "guidance",
}
ALSO = {  # other names of options
    **dict.fromkeys(("stable_diffusion", "stable-diffusion", "sd15", "sd1.5", "sd2", "sd2.1"), "sd"),
    **dict.fromkeys(("if", "deepfloyd-if", "deep_floyd"), "deepfloyd"),
    **dict.fromkeys(("splats", "3dgs", "gs", "gaussian_splatting"), "gaussians"),
    **dict.fromkeys(("usd", "usda", "usdc"), "usdz"),
    **dict.fromkeys(("mjcf", "mujoco", "robot"), "urdf"),
    **dict.fromkeys(("w&b", "wb"), "wandb"),
    "gltf": "glb",
    "tb": "tensorboard",
}
OWN: list[Path] = []  # folders of the command line with a user's own options
SHARED = ("experiment", "recipe", "hydra")  # groups whose files set other groups' settings


@contextmanager
def did_you_mean(arguments: Sequence[str]) -> Iterator[None]:
    """Raises: UserError: in place of Hydra's errors about a setting or an option that does not exist."""
    try:
        yield
    except MissingConfigException as error:
        missing = re.search(r"(?:Could not (?:find|load)|primary config) '([^']+)'", str(error))
        if missing is None:
            raise
        raise UserError(no_option(missing[1].removesuffix(".yaml"))) from error
    except ConfigCompositionException as error:
        unknown = re.match(r"Could not override '([^']+)'", str(error))
        several = re.match(r"Ambiguous value for argument '([^']+)'", str(error))
        if unknown is not None:
            raise UserError(no_setting(unknown[1], arguments)) from error
        if several is not None:
            key, _, value = several[1].partition("=")
            listed = "" if options_of(key) else f", or {command_line([f'{key}=[{value}]'])} for a list"
            raise UserError(f"{several[1]} has several values; add -m for one run of each{listed}") from error
        raise


def no_option(path: str) -> str:
    """The answer to an option of a group, or to a file of sweeps/, that does not exist."""
    group, _, option = path.partition("/")
    if option:
        known, typed, what = options_of(group), f"{group}=", f"option {path.replace('/', '=', 1)}"
    else:
        known, typed, what = studies(), "-cd sweeps -cn ", f"study file {path}"
    meant = [also] if (also := ALSO.get(option.lower())) in known else nearest(option or path, known)
    hint = f"did you mean {typed}{' or '.join(meant)}? Type" if meant else "type"
    return f"there is no {what}; {hint} {typed}NAME, one of {', '.join(known)}"


def no_setting(key: str, arguments: Sequence[str]) -> str:
    """The answer to a setting that does not exist, or not with the chosen options."""
    value = next((text.partition("=")[2] for text in arguments if text.startswith(f"{key}=")), "")
    known, chosen = settings_of(), chosen_options(arguments)
    available = [name for name, options in known.items() if not options or chosen.get(name.split(".")[0]) in options]
    if known.get(key):
        group = key.partition(".")[0]
        return f"{key} is a setting of other options of {group}; add {group}=NAME, one of {', '.join(known[key])}"
    if options := [name for name in options_of(key.partition("/")[0]) if "/" in key and name.endswith(f"/{value}")]:
        return f"there is no setting {key}; type {key.partition('/')[0]}={options[0]}"
    if meant := [USUAL[key]] if key in USUAL else nearest(key, available) or nearest(key, known):
        hint = f"did you mean {' or '.join(meant)}? Type {meant[0]}={quoted_value(value)}"
        return f"there is no setting {key}; {hint}"
    return f"there is no setting {key}; python launch.py --cfg job prints all of them, and +{key}={value} adds it"


def chosen_options(arguments: Sequence[str]) -> dict[str, str]:
    """Group -> its option, the default one or that of the command line."""
    defaults = [entry for entry in _read(CONFIGURATION / "config.yaml")["defaults"] if isinstance(entry, dict)]
    chosen = {name: str(option) for entry in defaults for name, option in entry.items()}
    chosen |= {name: option.split(",")[1] for name, option in chosen.items() if option.startswith("${suits:")}
    return chosen | {name: option for name, _, option in (text.partition("=") for text in arguments)}


def quoted_value(value: str) -> str:
    """A value as a shell takes it, in quotes where it needs them."""
    return value if PLAIN.fullmatch(value) else quoted(value)


def quoted(value: str) -> str:
    """A value in the quotes that a shell needs, double ones where they do."""
    return f'"{value}"' if not set('"$`\\!') & set(value) else command_line([value])


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """At most three of the `known` names most similar to `name`, as a whole or by their last part; often none."""
    scores: dict[str, float] = {}
    for other in known:
        whole, last = (_likeness(name, text) for text in (other, other.rsplit(".", 1)[-1]))
        scores[other] = max(whole, last - EQUAL if "." in other else 0.0)
    best = max(scores.values(), default=0.0)
    meant = [other for other, score in scores.items() if score >= max(LIKE, best - EQUAL / 2)]
    return sorted(meant, key=lambda other: (-scores[other], len(other)))[:3]


def _likeness(one: str, other: str) -> float:
    return SequenceMatcher(None, one.lower(), other.lower(), autojunk=False).ratio()


def options_of(group: str) -> list[str]:
    """The options of a group of the command line, such as `experiment`: paper, smoke, ablation/base, ..."""
    found = {name for folder in (CONFIGURATION, *OWN) for name in files_in(folder / group)} if group else ()
    return sorted(found)


def studies() -> list[str]:
    """The studies in sweeps/, without those of `wandb sweep`."""
    return [name for name in files_in(SWEEPS) if "/" not in name]


def files_in(folder: Path) -> list[str]:
    """The names of the YAML files in a folder and its subfolders, sorted; none if there is no such folder."""
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def settings_of() -> dict[str, list[str]]:
    """Each setting and group that some command has -> the options of its group that have it; [] for every command's."""
    return _settings_in(CONFIGURATION, *OWN)


@cache
def _settings_in(*folders: Path) -> dict[str, list[str]]:
    known: dict[str, list[str]] = {group.name: [] for group in CONFIGURATION.iterdir() if group.is_dir()}
    del known["hydra"], known["recipe"]
    known |= {name: [] for name in _names(_read(CONFIGURATION / "config.yaml"), "")}
    for path in (path for folder in folders for path in sorted(folder.glob("*/*.yaml"))):
        if path.parent.name not in SHARED:
            for name in _names(_read(path), f"{path.parent.name}."):
                known.setdefault(name, []).append(path.stem)
    return known


def _read(path: Path) -> dict[str, Any]:
    return yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}


def _names(tree: dict[str, object], above: str) -> Iterator[str]:
    """The dotted names of the settings of a file, groups of settings included."""
    for key, value in tree.items():
        if not key.startswith("_") and key not in ("defaults", "hydra"):
            yield f"{above}{key}"
            if isinstance(value, dict):
                yield from _names(value, f"{above}{key}.")
