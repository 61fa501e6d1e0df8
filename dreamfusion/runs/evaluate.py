"""Score a trained scene into its run's folder: evaluation.json and truth_check.png, the summary and the result."""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_class
from omegaconf import DictConfig

from dreamfusion.camera.orbit import Orbit
from dreamfusion.checkpoint import TrainedScene
from dreamfusion.error import GuidanceError
from dreamfusion.evaluation.scene import evaluate_scene, held_out_cameras, ring_cameras
from dreamfusion.export.settings import ExportSettings
from dreamfusion.files import write_json
from dreamfusion.guidance.prior_cache import cached_prior
from dreamfusion.image import write_image
from dreamfusion.ops.hardware import processor
from dreamfusion.runs.record import versions
from dreamfusion.runs.results import COMPARED, read_result, write_result
from dreamfusion.runs.scores import Judge
from dreamfusion.runs.summary import add_to_summary, read_summary
from dreamfusion.training.callbacks import Stopwatch
from dreamfusion.training.true_scores import TrueScores
from dreamfusion.truth.composed import Composer, composed
from dreamfusion.truth.store import Truth, find_truth, no_truth
from dreamfusion.types import Cameras

log = logging.getLogger(__name__)
PACKAGES = ("torch", "numpy", "scipy", "scikit-image")  # whose versions may change a score
MESH = ("resolution", "threshold", "blur", "smoothing", "denoise", "faces")  # settings that may change a score


def evaluate_run(scene: TrainedScene, export: ExportSettings, judges: Sequence[Judge] = ()) -> dict[str, float]:
    """Score the scene of a run; returns the scores by name. `judges` add those of encoders, and a user's own.

    Scores of a checkpoint from before the end of a finished run are not added to its summary and its result.

    Raises:
        EmptyFieldError: the scene has no surface.
    """
    started = time.monotonic()
    prompt, folder = str(scene.config.prompt), scene.run
    truth = truth_for(scene.config)
    found = evaluate_scene(scene.scene, scene.camera, export, truth)
    result, at_end = read_result(folder), _is_of_end(scene)
    earlier = read_summary(folder) if at_end else {}
    scores = {name: earlier[name] for name in ("prior_score",) if name in earlier} | found.scores
    judged: dict[str, float] = {}
    for judge in judges:
        judged |= judge(scene)
    scores |= judged
    seconds = round(time.monotonic() - started, 1)
    about = {} if truth is None else {"name": truth.name, **truth.about}
    protocol = _protocol(scene, export, seconds)
    write_json(evaluation_file(scene), {"prompt": prompt, "scores": scores, "truth": about, **protocol})
    write_image(found.sheet, folder / f"truth_check{'' if at_end else f'_{scene.step}'}.png")
    if not at_end:
        log.warning("the summary of %s keeps the scores of its end: this checkpoint is of step %d", folder, scene.step)
        return scores
    add_to_summary(folder, scores)
    if result is not None:
        shown = {name: value for name, value in scores.items() if name in (*COMPARED, *judged)}
        write_result(replace(result, scores={**result.scores, **shown}), folder)
    return scores


def evaluation_file(scene: TrainedScene) -> Path:
    """Where the scores of a scene are written: those from before the end of a finished run beside its own."""
    return scene.run / f"evaluation{'' if _is_of_end(scene) else f'_{scene.step}'}.json"


def _is_of_end(scene: TrainedScene) -> bool:
    result = read_result(scene.run)
    return result is None or result.steps == scene.step


def truth_for(config: DictConfig) -> Truth | None:
    """What the prompt of a run means: for a prior that knows, the models that it means, each at its place.

    For other priors, and one whose weights are gone, the model with the name in the prompt.
    """
    prompt = str(config.prompt)
    if not hasattr(get_class(config.guidance._target_), "layout"):  # asked without loading a prior
        return find_truth(prompt)
    try:
        prior = cached_prior(config.guidance)
    except (GuidanceError, InstantiationException):
        return find_truth(prompt)
    assert isinstance(prior, Composer)
    return composed(prior.layout(prompt))


def true_scores(config: DictConfig, orbit: Orbit, every: int, stopwatch: Stopwatch) -> TrueScores:
    """The callback of `mode.evaluate_every` = `every`.

    Raises:
        UserError: no truth is known for the prompt.
    """
    truth = truth_for(config)
    if truth is None:
        raise no_truth(str(config.prompt))
    return TrueScores(truth.mesh, orbit, every, stopwatch)


def _protocol(scene: TrainedScene, export: ExportSettings, seconds: float) -> dict[str, Any]:
    """What another machine needs to get the same numbers."""
    return {
        "step": scene.step,
        "seed": scene.config.seed,
        "mesh": {name: getattr(export, name) for name in MESH},
        "surface_samples_seeds": [0, 1],
        "cameras": {"held_out": _poses(held_out_cameras(scene.camera)), "ring": _poses(ring_cameras(scene.camera))},
        "versions": versions(PACKAGES),
        "machine": processor(),
        "seconds": seconds,
    }


def _poses(cameras: Cameras) -> list[list[float]]:
    """Azimuth, elevation (degrees), distance (scene units) and field of view (degrees) of each camera."""
    columns = (cameras.azimuth, cameras.elevation, cameras.distance, cameras.fov)
    return [[round(value, 3) for value in pose] for pose in zip(*(column.tolist() for column in columns), strict=True)]
