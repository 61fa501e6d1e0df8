"""Names and folders of runs and studies. Light: imports neither torch nor numpy."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from pathlib import Path

from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

OUTPUTS = Path("outputs")
RUNS = OUTPUTS / "train"
STUDIES = OUTPUTS / "studies"
OWN_FOLDER = {"train": "train", "view": "train", "sample": "sample"}  # of outputs/, by the mode that begins a run there
STUDY = "multirun"  # the study of a multirun without a name
# Settings that do not change the result: two runs that differ in these alone are one run.
ASIDE = ("hydra", "study", "resume", "checkpoint", "logger", "objective", "prompts", "run")


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


def study_folder(name: str, studies: Path = STUDIES) -> Path:
    """The folder of the study `name`."""
    return studies / slug(name)


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
