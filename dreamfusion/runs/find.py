"""Find runs and checkpoints from the settings `checkpoint`, `run` and `study`."""

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from omegaconf import DictConfig

from dreamfusion.error import CheckpointError, UserError, user_message
from dreamfusion.files import is_full
from dreamfusion.paths import LAST, PREVIOUS, run_of
from dreamfusion.runs.names import RUNS, STUDIES, study_folder
from dreamfusion.runs.results import RESULT

log = logging.getLogger(__name__)
NEWEST = "DREAMFUSION_NEWEST"  # variable with the checkpoint that was the newest when the command began
Done = TypeVar("Done")


def find_checkpoint(choice: str, *folders: Path) -> Path:
    """The checkpoint that `choice` names: a checkpoint file, a run's folder, or `latest`: the newest under `folders`.

    `folders` defaults to the folders of all runs and studies.

    Raises:
        CheckpointError: no checkpoint found.
    """
    if choice == "latest":
        folders = folders or (RUNS, STUDIES)
        runs = (path for folder in folders for path in folder.glob(f"**/checkpoints/{LAST}"))
        found = sorted(runs, key=lambda path: path.stat().st_mtime)
        if not found:
            raise CheckpointError(f'no run under {folders[0]} has a checkpoint yet; type prompt="a cat" to make one')
        return found[-1]
    path = Path(choice).expanduser()
    if path.is_dir():
        names = [path / "checkpoints" / name for name in (LAST, PREVIOUS)]
        if not any(name.is_file() for name in names) and (path / RESULT).is_file():
            raise _without_weights(path)
        path = next((name for name in names if name.is_file()), names[0])
    if not path.is_file():
        raise CheckpointError(
            f"no checkpoint at {path}; type checkpoint=latest, or the path of a run or of a .ckpt file"
        )
    return path


def note_newest(arguments: Sequence[str]) -> None:
    """Find the scene of `start=latest` before the command's first run, which would be the newest for its second.

    Raises:
        CheckpointError: there is none.
    """
    os.environ.pop(NEWEST, None)
    if "start=latest" in arguments:
        os.environ[NEWEST] = str(find_checkpoint("latest"))  # the workers of launchers have it too


def with_start(cfg: DictConfig) -> DictConfig:
    """The settings with the path of the scene for `start: latest`, for the run's files.

    Not earlier: the name of a run's folder in a study must be that of the same command later.
    """
    if cfg.get("start") != "latest":
        return cfg
    changed = cfg.copy()
    changed.start = os.environ.get(NEWEST) or str(find_checkpoint("latest"))
    return changed


def run_choice(cfg: DictConfig) -> str | None:
    """The argument for `find_runs`: `run`, or the folder of `study`; None if neither is set."""
    if cfg.run is not None:
        return str(cfg.run)
    return None if cfg.study is None else str(study_folder(str(cfg.study)))


def over_runs(cfg: DictConfig, work: Callable[[Path], Done], lacks: str) -> list[Done]:
    """Do `work` with the checkpoint of the run, or of all runs that `run` or `study` names; returns its results.

    Skips runs that fail, with a warning that says what they lack, unless there is only one.
    """
    choice = run_choice(cfg)
    if choice is None:
        return [work(find_checkpoint(cfg.checkpoint or "latest"))]
    runs, done = find_runs(choice), []
    for number, folder in enumerate(runs, 1):
        try:
            done.append(work(find_checkpoint(str(folder))))
        except (UserError, OSError) as error:
            if len(runs) == 1 or is_full(error):
                raise
            log.warning("%s: %s: %s", folder, lacks, user_message(error))
        log.info("%d of %d runs", number, len(runs))
    return done


def find_runs(choice: str, runs: Path = RUNS, studies: Path = STUDIES, weights: bool = True) -> list[Path]:
    """The sorted folders of the runs with a checkpoint that `choice` names; without `weights`, also of those that are
    finished and whose checkpoints were removed.

    `choice` is `all` (every run under `runs` and `studies`), a run's folder, a folder of runs, a glob of folders, or
    the name of a study.

    Raises:
        CheckpointError: no run found, or none with a checkpoint.
    """
    path = Path(choice).expanduser()
    if choice == "all":
        tops = [runs, studies]
    elif choice.strip() and path.exists():
        tops = [path]
    elif any(character in choice for character in "*?["):
        try:
            tops = list(Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))))
        except ValueError as error:
            raise CheckpointError(
                f"run={choice} is no pattern of folders ({error}); ** stands for whole folders"
            ) from error
    else:
        tops = [study_folder(choice, studies)] if choice.strip() else []
    trained = {run_of(checkpoint) for top in tops for checkpoint in top.glob(f"**/checkpoints/{LAST}")}
    finished = set() if trained and weights else {result.parent for top in tops for result in top.glob(f"**/{RESULT}")}
    if weights and not trained and finished:
        raise _without_weights(min(finished))
    found = sorted(trained | finished)
    if not found:
        raise CheckpointError(
            f"no run at {choice}; type run=all, a run's folder, a folder of runs, a glob such as "
            f"run='{runs}/a-*/*', or the name of a study"
        )
    return found


def _without_weights(run: Path) -> CheckpointError:
    return CheckpointError(
        f"the run {run} has no checkpoint, which this command needs: its checkpoints were removed; type "
        "checkpoint=latest, or train it again"
    )
