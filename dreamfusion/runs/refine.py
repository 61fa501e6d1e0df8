"""`experiment=refine`: a second stage that begins from the scene of a run, inside its folder, and their comparison."""

import logging
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from dreamfusion.files import read_figures, write_json
from dreamfusion.runs.dream import Outputs, run_in_study
from dreamfusion.runs.find import find_checkpoint
from dreamfusion.runs.gallery import gallery
from dreamfusion.runs.results import read_result
from dreamfusion.runs.settings import plain

log = logging.getLogger(__name__)
STAGE, PAGE = "refined", "refine.html"  # folder and page inside the folder of the first stage
BEGAN = "began.json"  # in the folder of the second stage: the first one's step
CHOICES = ("scene",)  # groups of another option than the first stage's: replaced, not merged
HINT = "prior_score"
SCORES = {"fscore_1": "F-score at 1 % of the truth", HINT: "prior score"}  # the first that both stages have
ENDED = ("checkpoint", "config", "refine")  # settings of the first stage only


def refine(cfg: DictConfig, folder: Path, outputs: Outputs) -> None:
    """Train or resume the second stage of the finished run in `folder`, if it has one, and compare both.

    `folder` may be that of the second stage, which was resumed. A finished second stage is not repeated but with
    `resume=false`, as the first.

    Raises:
        UserError, Locked, SystemExit: as `runs.dream.dream`.
    """
    if folder.name == STAGE and read_result(folder.parent) is not None:
        compare(folder.parent)
        return
    first = read_result(folder)
    if cfg.get("refine") is None or first is None:
        return
    if first.pruned is not None and not first.scores:
        log.info("not refined: %s", first.pruned)
        return
    if not cfg.resume or read_result(folder / STAGE) is None:  # else the checkpoints may have been removed
        run_in_study(second_stage(cfg, find_checkpoint(str(folder))), folder / STAGE, outputs)
        write_json(folder / STAGE / BEGAN, {"step": first.steps})
    elif (step := read_figures(folder / STAGE / BEGAN).get("step", first.steps)) != first.steps:
        log.warning(
            "%s began from step %d of this run, which is at step %d now; remove it and repeat the command to refine "
            "this state",
            *(folder / STAGE, step, first.steps),
        )
    compare(folder)


def second_stage(cfg: DictConfig, start: Path) -> DictConfig:
    """The settings of the second stage: those of the first, changed by `refine`."""
    settings = plain(cfg) | dict.fromkeys(ENDED) | {"start": str(start)}
    second = plain(cfg.refine)
    kept = {name: value for name, value in settings.items() if name not in CHOICES or name not in second}
    merged = OmegaConf.merge(kept, second)
    assert isinstance(merged, DictConfig)
    return merged


def compare(folder: Path) -> None:
    """Write the page of both stages, and log which one is better; neither is removed.

    By the F-score against the truth where both were evaluated (`mode.evaluate=true`, and a name that has one). The
    prior's score is a hint: of six such names it preferred the NeRF in all, the truth the mesh (docs/laboratory.md).
    """
    stages = [folder, folder / STAGE]
    gallery(stages, f"{folder.parent.name}: start and refined", folder / PAGE)
    results = [read_result(stage) for stage in stages]
    for name, what in SCORES.items():
        scores = [result.scores[name] for result in results if result and name in result.scores]
        if len(scores) == len(stages):
            before, after = scores
            if after >= before:
                log.info("refined: %s %.3f, before %.3f", what, after, before)
            elif name == HINT:
                log.warning(
                    "the refined scene has a lower %s than its start (%.3f, before %.3f), as some better meshes have: "
                    "look at both in %s; the start's mesh is in %s",
                    *(what, after, before, folder / PAGE, folder),
                )
            else:
                log.warning(
                    "the refined scene is worse than its start (%s %.3f, before %.3f): use the mesh in %s",
                    *(what, after, before, folder),
                )
            break
    log.info("  %s", folder / PAGE)
