"""A training that is watched: the window is served between two steps, in the thread that trains."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

import lightning as L

from dreamfusion.camera.data import CameraStream
from dreamfusion.checkpoint import TrainedScene, load_scene
from dreamfusion.error import UserError
from dreamfusion.schedule import schedule
from dreamfusion.system import DreamFusion
from dreamfusion.training.callbacks import Checkpoints, StopOnInterrupt, Stopwatch
from dreamfusion.training.progress import figures
from dreamfusion.view.exports import Exports
from dreamfusion.view.mailbox import Desk
from dreamfusion.view.render_loop import Sizes, Studio
from dreamfusion.view.window import Controls, Window

log = logging.getLogger(__name__)
Part = TypeVar("Part", bound=L.Callback)
POLL = 0.2  # seconds between two looks for Ctrl-C while paused


class Watch(L.Callback):
    """Serves a window from the training loop; when nobody is there, a step costs one look at an empty desk."""

    def __init__(self, window: Window, desk: Desk, sizes: Sizes, cameras: CameraStream, exports: Exports) -> None:
        """`cameras` are those that the system is trained from."""
        self.window, self.desk, self.sizes, self.cameras, self.exports = window, desk, sizes, cameras, exports
        self.paused = False
        self._began = 0.0  # the last step
        self._studio: Studio | None = None

    def on_train_start(self, trainer: L.Trainer, system: L.LightningModule) -> None:
        assert isinstance(system, DreamFusion)
        self._studio = Studio(
            self.window, self.desk, self.sizes, system.scene, self.cameras, lambda: trainer.global_step, system.device
        )
        controls = Controls(self.turn, lambda: self._save(trainer), lambda value: rescale(system, value))
        self.window.add_training(system.distillation.guidance_scale(system.progress), controls)
        self.window.on_export = lambda: self._save(trainer, self.exports.begin)
        self._began = time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, system: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        assert self._studio is not None
        # While somebody turns the scene, the window has as much of the time as the training.
        self._studio.serve(time.monotonic() - self._began)
        if self.desk.watched:
            self.window.say(f"step {trainer.global_step} of {trainer.max_steps}, {figures(trainer)}")
        if self.paused:
            self._rest(trainer, self._studio)
        self._began = time.monotonic()

    def on_train_end(self, trainer: L.Trainer, system: L.LightningModule) -> None:
        self.exports.finish()  # before the run writes a mesh of its own to the same file
        self.window.end_training()
        self.window.say("the training is done; making the mesh")

    def turn(self) -> bool:
        """Pause, or go on; returns whether it is paused now."""
        self.paused = not self.paused
        return self.paused

    def _rest(self, trainer: L.Trainer, studio: Studio) -> None:
        """Serve without training, until somebody goes on or Ctrl-C comes; the run's stopwatch stands still."""
        began = time.monotonic()
        self.window.say(f"paused at step {trainer.global_step} of {trainer.max_steps}")
        while self.paused and not part(trainer, StopOnInterrupt).interrupted:
            studio.wait(POLL)
            studio.serve()
        part(trainer, Stopwatch).leave_out(time.monotonic() - began)

    def _save(self, trainer: L.Trainer, then: Callable[[TrainedScene], None] | None = None) -> None:
        """Write the run's checkpoint; `then` takes the scene in it, so that what it makes is of the same step."""
        checkpoints = part(trainer, Checkpoints)
        try:
            checkpoints.save(trainer)
        except (UserError, OSError) as error:
            self.window.notify("not saved", str(error))
            return
        self.window.notify("saved", f"step {trainer.global_step}: {checkpoints.path}")
        if then is not None:
            then(load_scene(checkpoints.path))


def rescale(system: DreamFusion, value: float) -> None:
    """Guide by `value` from the next step on; noted in the settings that the checkpoint has, for when it goes on."""
    log.info("guidance scale %g from step %d on", value, system.global_step)
    system.distillation.guidance_scale = schedule(value)
    system.config["distillation"]["guidance_scale"] = value


def part(trainer: L.Trainer, kind: type[Part]) -> Part:
    """The trainer's callback of a kind."""
    return next(callback for callback in trainer.callbacks if isinstance(callback, kind))  # type: ignore[attr-defined]
