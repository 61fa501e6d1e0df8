"""Serve the window during training: between two steps, on the training thread."""

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import lightning as L

from dreamfusion.camera.data import CameraStream
from dreamfusion.checkpoint import TrainedScene, load_scene
from dreamfusion.error import UserError
from dreamfusion.schedule import schedule
from dreamfusion.system import DreamFusion
from dreamfusion.training.callbacks import Checkpoints, StopOnInterrupt, Stopwatch
from dreamfusion.training.progress import figures
from dreamfusion.view.exports import Exports, failure
from dreamfusion.view.mailbox import Mailbox
from dreamfusion.view.render_loop import RenderLoop
from dreamfusion.view.window import Window

log = logging.getLogger(__name__)
Callback = TypeVar("Callback", bound=L.Callback)
POLL = 0.2  # seconds between two checks for Ctrl-C while paused


class ViewCallback(L.Callback):
    """Serves a window from the training loop; without clients, it only checks an empty mailbox after each step."""

    def __init__(self, window: Window, mailbox: Mailbox, cameras: CameraStream, exports: Exports) -> None:
        """`cameras` are the system's training cameras."""
        self.window, self.mailbox, self.cameras, self.exports = window, mailbox, cameras, exports
        self.paused = False
        self._step_started = 0.0
        self._render_loop: RenderLoop | None = None

    def on_train_start(self, trainer: L.Trainer, system: L.LightningModule) -> None:
        assert isinstance(system, DreamFusion)
        step = partial(getattr, trainer, "global_step")
        self._render_loop = RenderLoop(self.window, self.mailbox, system.scene, self.cameras, step, system.device)
        scale = system.distillation.guidance_scale(system.progress), partial(set_guidance_scale, system)
        self.window.add_training(self.toggle_pause, partial(self._save, trainer), *scale)
        self.window.on_export = partial(self._save, trainer, self.exports.begin)
        self._step_started = time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, system: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        assert self._render_loop is not None
        # While a camera moves, rendering takes at most as much time as the training step did.
        self._render_loop.serve(time.monotonic() - self._step_started)
        if self.mailbox.has_clients:
            self.window.set_status(f"step {trainer.global_step} of {trainer.max_steps}, {figures(trainer)}")
        if self.paused:
            self._serve_while_paused(trainer, self._render_loop)
        self._step_started = time.monotonic()

    def on_train_end(self, trainer: L.Trainer, system: L.LightningModule) -> None:
        self.exports.finish()  # the run writes its own mesh to the same file afterwards
        self.window.end_training()
        self.window.set_status("training finished; making the mesh")

    def toggle_pause(self) -> bool:
        """Pause or resume; returns whether training is now paused."""
        self.paused = not self.paused
        return self.paused

    def _serve_while_paused(self, trainer: L.Trainer, render_loop: RenderLoop) -> None:
        """Serve without training until resumed or interrupted; the pause does not count as training time."""
        self.window.set_status(f"paused at step {trainer.global_step} of {trainer.max_steps}")
        with callback_of(trainer, Stopwatch).stopped():
            while self.paused and not callback_of(trainer, StopOnInterrupt).interrupted:
                render_loop.wait(POLL)
                render_loop.serve()

    def _save(self, trainer: L.Trainer, then: Callable[[TrainedScene], None] | None = None) -> None:
        """Write the run's checkpoint, and call `then` with the scene loaded from it."""
        checkpoints = callback_of(trainer, Checkpoints)
        try:
            checkpoints.save(trainer)
        except (UserError, OSError) as error:
            self.window.notify("not saved", str(error))
            return
        self.window.notify("saved", f"step {trainer.global_step}: {checkpoints.path}")
        if then is not None:
            try:
                scene = load_scene(checkpoints.path, trainer.strategy.root_device)
            except Exception as error:  # such as a GPU without memory for a second scene
                self.window.notify("no mesh", failure(error))
                return
            then(scene)


def set_guidance_scale(system: DreamFusion, value: float) -> None:
    """Change the guidance scale from the next step on, also in the settings that checkpoints store."""
    log.info("guidance scale %g from step %d on", value, system.global_step)
    system.distillation.guidance_scale = schedule(value)
    system.config["distillation"]["guidance_scale"] = value


def callback_of(trainer: L.Trainer, callback_type: type[Callback]) -> Callback:
    """The trainer's callback of a type."""
    return next(found for found in trainer.callbacks if isinstance(found, callback_type))  # type: ignore[attr-defined]
