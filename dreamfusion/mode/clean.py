"""`mode=clean`: say what runs keep that can be made again or is not needed, and remove what `mode.remove` names."""

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from omegaconf import DictConfig

from dreamfusion.error import UserError, typed
from dreamfusion.files import LOCK
from dreamfusion.paths import PREVIOUS, REFERENCE
from dreamfusion.runs.find import run_choice
from dreamfusion.runs.lock import Locked, locked
from dreamfusion.runs.names import RUNS, STUDIES
from dreamfusion.runs.record import RECORD
from dreamfusion.runs.results import FAILURE, read_result, used_file
from dreamfusion.untrusted import UntrustedError, read_settings

log = logging.getLogger(__name__)
NAMED = 20  # paths that are printed
GROUPS = {"prompt", "mode", "guidance", "scene"}  # settings that the config.yaml of a run has, among others
# What a run without a checkpoint writes; a folder with anything else in it is not removed.
OF_RUN = {
    "config.yaml",
    RECORD,
    "metrics.csv",
    FAILURE,
    "index.html",
    "previews",
    "checkpoints",
    REFERENCE,
    "wandb",
    "tensorboard",
    LOCK,
}


def run(cfg: DictConfig, remove: Sequence[str]) -> list[Path]:
    """Print the number and size of what each name of KINDS finds in all runs, or in those of `run` or `study`.

    A run at work is left alone.

    Returns:
        What was removed: everything that the names in `remove` find.

    Raises:
        UserError: a name in `remove` is unknown, or `run` or `study` is no folder.
    """
    if set(remove) - set(KINDS):
        example = typed("mode.remove", "[previous]")
        raise UserError(f"mode.remove is {list(remove)}; type some of {', '.join(KINDS)}: {example}")
    choice = run_choice(cfg) or "all"
    tops = [RUNS, STUDIES] if choice == "all" else [Path(choice).expanduser()]
    if choice != "all" and not tops[0].is_dir():
        raise UserError(f"no folder at {choice}; type run=all, the folder of a run or of runs, or study=NAME")
    folders = sorted({path.parent for top in tops for path in top.rglob("config.yaml") if _is_of_run(path)})
    removed = []
    for name, (what, find) in KINDS.items():
        found, size = 0, 0.0
        named: list[Path] = []
        for folder in folders:
            try:
                with locked(folder):
                    paths = [path for path in find(folder) if path.exists()]
                    found, size, named = found + len(paths), size + sum(map(_megabytes, paths)), [*named, *paths]
                    if name in remove:
                        removed += paths
                        for path in paths:
                            _remove(path)
                if name in remove and folder in paths:  # now without its lock, which Windows keeps while it is open
                    folder.rmdir()
            except Locked as error:
                log.warning("%s", error)
        done = "removed" if name in remove else f"type {typed('mode.remove', f'[{name}]')}"
        log.info("%-12s %5d %9.1f MB  %s: %s", name, found, size, what, done)
        if name in remove or name == "empty":  # what is removed whole
            more = [f"and {found - NAMED} more"] if found > NAMED else []
            for line in [*map(str, named[:NAMED]), *more]:
                log.info("  %s", line)
    return removed


def _previous(folder: Path) -> Iterator[Path]:
    if _finished(folder):
        yield folder / "checkpoints" / PREVIOUS


def _previews(folder: Path) -> Iterator[Path]:
    if _finished(folder):
        yield folder / "previews"


def _checkpoints(folder: Path) -> Iterator[Path]:
    if _finished(folder):
        yield folder / "checkpoints"


def _empty(folder: Path) -> Iterator[Path]:
    if not _finished(folder) and used_file(folder) is None and {path.name for path in folder.iterdir()} <= OF_RUN:
        yield folder


def _is_of_run(path: Path) -> bool:
    """Whether a config.yaml is that of a run."""
    try:
        return set(read_settings(path)) >= GROUPS
    except UntrustedError:
        return False


def _finished(folder: Path) -> bool:
    try:
        return read_result(folder) is not None
    except UserError:
        return False


def _megabytes(path: Path) -> float:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


def _remove(path: Path) -> None:
    """Remove a file, a folder with all that is in it, or what is in the folder of a run, which is locked."""
    if (path / LOCK).exists():
        for inside in path.iterdir():
            if inside.name != LOCK:
                _remove(inside)
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


KINDS: dict[str, tuple[str, Callable[[Path], Iterator[Path]]]] = {
    "previous": ("checkpoints before the last, of finished runs", _previous),
    "previews": ("pictures of the training, of finished runs; pages written later lack them", _previews),
    "checkpoints": ("all checkpoints of finished runs: no later export, render or resumption", _checkpoints),
    "empty": ("unfinished runs without a checkpoint: nothing can be resumed", _empty),
}
