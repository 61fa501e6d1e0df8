"""Names and folders of runs and studies. Imports neither torch nor numpy."""

import hashlib
import json
import re
import unicodedata
from datetime import datetime
from pathlib import Path

from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

OUTPUTS = Path("outputs")
RUNS = OUTPUTS / "train"
STUDIES = OUTPUTS / "studies"
OWN_FOLDER = {
    "train": "train",
    "view": "train",
    "sample": "sample",
    "image": "image",
}  # in outputs/, by the mode that creates runs
TIME = "%Y-%m-%d_%H-%M-%S-%f"  # of a run outside of a study, as in conf/config.yaml; two commands of a second differ
ADDED = (("guidance", "prediction"),)  # settings of after 2026-11: null does not change the names of runs before
STUDY = "multirun"  # the study of an unnamed multirun
# Settings that do not change the result: two runs that differ only in these are the same run.
IGNORED = (
    "hydra",
    "ops",
    "deterministic",  # changes the last bits, as `ops` does
    "study",
    "resume",
    "checkpoint",
    "config",
    "logger",
    "objective",
    "prompts",
    "run",
    "watchdog",  # but for one that restarts, see `identity`
)
DEVICES = re.compile("aux|con|nul|prn|(com|lpt)[0-9]")  # on Windows no names of folders
RESTARTING = "restart"  # answer of a watchdog that changes the result: it goes back, with smaller learning rates


def run_folder(mode: str, prompt: object, checkpoint: str | None, name: str, study: str | None = None) -> str:
    """The folder in outputs/ of a new run; "." for modes that read existing runs, and without a prompt."""
    if mode not in OWN_FOLDER or checkpoint is not None or prompt is None or not str(prompt).strip():
        return "."
    group = OWN_FOLDER[mode] if study is None else f"studies/{slug(study)}"
    return f"{group}/{slug(str(prompt))}/{name}"


def subject(cfg: DictConfig) -> object:
    """After what the folder of a new run is named: its prompt, else the picture's file name; None without both."""
    return cfg.prompt if cfg.prompt is not None or cfg.image is None else Path(str(cfg.image)).stem


def moment() -> str:
    """The name of a run that begins now."""
    return datetime.now().strftime(TIME)


def study_of(study: str | None, hydra_mode: RunMode | None) -> str | None:
    """The study of a run with this setting `study`; None if it belongs to none."""
    if study is not None and str(study).strip():
        return str(study)
    return STUDY if hydra_mode == RunMode.MULTIRUN else None


def study_folder(name: str, studies: Path = STUDIES) -> Path:
    """The folder of the study `name`."""
    return studies / slug(name)


def relative_to_cwd(path: Path) -> Path:
    """The path relative to the working directory if it is inside, else unchanged."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def identity(cfg: DictConfig) -> list[str]:
    """The keys of the settings that change the result: all except IGNORED, `watchdog` only if it restarts the run, and
    `scores` only if there are any: folders of runs keep their names."""
    named = {"watchdog": OmegaConf.select(cfg, "watchdog.answer") == RESTARTING, "scores": bool(cfg.get("scores"))}
    return [str(key) for key in cfg if named.get(str(key), key not in IGNORED)]


def digest(cfg: DictConfig) -> str:
    """A hash of the settings of `identity`, which names the run's folder in a study."""
    settings = OmegaConf.to_container(OmegaConf.masked_copy(cfg, identity(cfg)))
    assert isinstance(settings, dict)
    for group, name in ADDED:
        if isinstance(part := settings.get(group), dict) and part.get(name, "") is None:
            del part[name]
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:8]


def slug(prompt: str, longest: int = 60) -> str:
    """A folder name for a prompt: "A cat's hat!" -> "a-cats-hat"; never empty, never a path."""
    plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower().replace("'", "")
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    if words and len(words) <= longest and not DEVICES.fullmatch(words):
        return words
    mark = hashlib.sha256(prompt.encode(errors="surrogateescape")).hexdigest()[:8]
    return f"{words[: longest - 9].rstrip('-')}-{mark}" if words else f"prompt-{mark}"
