"""Scores against the laboratory's truth during training: quality against seconds."""

from typing import Any

import lightning as L

from dreamfusion.camera.orbit import Orbit
from dreamfusion.evaluation.scene import held_out_cameras, mesh_pictures, picture_scores, scene_pictures
from dreamfusion.training.callbacks import Stopwatch
from dreamfusion.types import Mesh


class TrueScores(L.Callback):
    """Logs the scores of pictures, "truth/psnr" and others, every `every` steps and at the end.

    "truth/seconds" are the run's until then. The time of the scores is excluded from them. Must run before
    `Checkpoints`, as `Metrics`.
    """

    def __init__(self, truth: Mesh, orbit: Orbit, every: int, stopwatch: Stopwatch) -> None:
        self._every, self._stopwatch = every, stopwatch
        self._cameras = held_out_cameras(orbit)
        with stopwatch.stopped():
            self._real = mesh_pictures(truth, self._cameras)

    def on_train_batch_end(self, trainer: L.Trainer, system: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        if not trainer.is_global_zero or (step % self._every and step != trainer.max_steps):
            return
        seconds = self._stopwatch.seconds
        with self._stopwatch.stopped():
            scores = picture_scores(scene_pictures(system.scene, self._cameras), self._real)
        row = {name.replace("_", "/", 1): value for name, value in scores.items()}  # truth_psnr -> truth/psnr
        for logger in trainer.loggers:
            logger.log_metrics(row | {"truth/seconds": seconds}, step - 1)  # counted from 0, as Lightning logs steps
