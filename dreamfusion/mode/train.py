"""`mode=train`: train one run, a run of a study, or a run for each prompt of a file."""

import logging
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from dreamfusion.paths import run_of
from dreamfusion.runs.check import check
from dreamfusion.runs.dream import Outputs, dream, run_in_study
from dreamfusion.runs.lock import Locked
from dreamfusion.runs.names import digest, moment, relative_to_cwd, run_folder, study_of
from dreamfusion.runs.prompt_list import run_list
from dreamfusion.runs.refine import refine
from dreamfusion.runs.results import BEYOND, check_objective, objective

log = logging.getLogger(__name__)


class Train(Outputs):
    """The settings of conf/mode/train.yaml; a call runs the mode."""

    def __call__(self, cfg: DictConfig) -> Path | float | list[float]:
        """Train, export and summarise; returns the run's folder, or the objective of a search.

        Resumes the run of `checkpoint`, a path, or repeats the run of `config`. In a study, skips finished runs and
        resumes unfinished ones. With `prompts.file`, runs the prompts one after the other.

        Raises:
            UserError: a setting is invalid.
            SystemExit: with status 130, after Ctrl-C and a final checkpoint.
        """
        check_objective(cfg.objective, self.evaluate, cfg.get("scores") or ())
        if cfg.prompts.file is not None:
            return run_list(cfg, self._in_study)
        check(cfg)
        hydra = HydraConfig.get()
        folder = relative_to_cwd(Path(hydra.runtime.output_dir))
        study = study_of(cfg.study, hydra.mode)
        if cfg.config is not None:  # Hydra chose the folder before the prompt was read from that file
            name = moment() if study is None else digest(cfg)
            folder = relative_to_cwd(folder.resolve() / run_folder("train", cfg.prompt, None, name, study))
        if cfg.checkpoint is not None:
            folder = dream(cfg, run_of(Path(cfg.checkpoint)), self, Path(cfg.checkpoint))
            refine(cfg, folder, self)
        elif study is None:
            dream(cfg, folder, self)
            refine(cfg, folder, self)
        else:
            try:
                self._in_study(cfg, folder)
            except Locked as error:
                if hydra.mode != RunMode.MULTIRUN or cfg.objective is not None:
                    raise
                log.info("%s", error)  # another process of the study runs it
        return folder if cfg.objective is None else objective(folder, cfg.objective, _worst(cfg, hydra.sweeper))

    def _in_study(self, cfg: DictConfig, folder: Path) -> Path:
        run_in_study(cfg, folder, self)
        refine(cfg, folder, self)
        return folder


def _worst(cfg: DictConfig, sweeper: DictConfig) -> dict[str, float]:
    """The worst values of the scores of the group `scores` in a search: the lower, the better if it minimises them."""
    sought = [cfg.objective] if isinstance(cfg.objective, str) else [*cfg.objective]
    directions = sweeper.get("direction")  # one, or one for each objective, of Optuna; other sweepers have none
    listed = [directions] * len(sought) if isinstance(directions, str) else [*(directions or ())]
    lower = [name for name, direction in zip(sought, listed, strict=False) if str(direction).endswith("minimize")]
    return {name: BEYOND if name in lower else -BEYOND for name in cfg.get("scores") or ()}
