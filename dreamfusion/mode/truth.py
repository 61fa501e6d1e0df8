"""`mode=truth`: make the laboratory's ground truth from the model libraries, and compare it with their renders."""

import json
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dreamfusion.error import UserError, check_positive
from dreamfusion.export.settings import ExportSettings
from dreamfusion.files import replacing, write_json
from dreamfusion.pocket.data.catalog import Subject, read_libraries
from dreamfusion.pocket.data.names import read_names, select_models
from dreamfusion.pocket.data.pool import Failure, map_processes
from dreamfusion.pocket.data.renders import RenderSet
from dreamfusion.pocket.data.truth import make_truth
from dreamfusion.pocket.training.card import attribution
from dreamfusion.truth.store import INDEX

log = logging.getLogger(__name__)
TIMEOUT = 900.0  # seconds for one model


def run(
    cfg: DictConfig,
    libraries: Sequence[str],
    names: str,
    folder: str,
    renders: str | None,
    workers: int,
    known: Sequence[str],
    held_out: Sequence[str],
    solid: DictConfig,
) -> Path:
    """Write one file a name, index.json and ATTRIBUTION.md into `folder`; returns the path of the index.

    Names that the index has are kept as they are: remove its file, or their entries, to make them again.

    Raises:
        UserError: a name has no model in the libraries.
    """
    check_positive("mode", workers=workers)
    items = read_libraries([Path(path) for path in libraries])
    models = _first_models(items, Path(names))
    rendered = {} if renders is None else _first_models(RenderSet.load(Path(renders)).items, Path(names))
    wanted = [*known, *held_out]
    if missing := [name for name in wanted if name not in models]:
        raise UserError(f"the libraries have no model of {missing[0]!r}; leave it out of mode.known and mode.held_out")
    export = ExportSettings.of(OmegaConf.create({**cfg.export, **solid}))
    make = partial(make_truth, export=export, folder=Path(folder), renders=None if renders is None else Path(renders))
    index = Path(folder) / INDEX
    earlier = json.loads(index.read_text(encoding="utf-8")) if index.is_file() else {}
    index_of: dict[str, dict[str, Any]] = {
        name: about | ({"held_out": name in held_out} if name in wanted else {}) for name, about in earlier.items()
    }
    tasks = [(name, items[models[name]], rendered.get(name)) for name in wanted if name not in index_of]
    for number, result in map_processes(make, tasks, workers, TIMEOUT):
        name, item, _ = tasks[number]
        if isinstance(result, Failure):
            log.warning("no truth for %s: %s", name, result.reason)
            continue
        origin = {"model": item.name, "creator": item.creator, "license": item.license, "source": item.source}
        index_of[name] = {**origin, "held_out": name in held_out, **result}
        log.info("%d of %d: %s, %s", number + 1, len(tasks), name, ", ".join(f"{k} {v}" for k, v in result.items()))
        write_json(index, index_of)
    write_json(index, index_of)
    with replacing(Path(folder) / "ATTRIBUTION.md") as draft:
        made = [
            Subject(about["model"], (), "", about["creator"], about["license"], about["source"])
            for about in index_of.values()
        ]
        draft.write_text(attribution(made, "The 3D models of the laboratory's ground truth"), encoding="utf-8")
    return index


def _first_models(items: Sequence[Subject], names: Path) -> dict[str, int]:
    """The index of the model that each name means: its first, which the prior samples most often."""
    models: dict[str, int] = {}
    for place, name in select_models(items, read_names(names)).items():
        models.setdefault(name, place)
    return models
