"""Callbacks of every run: previews, checkpoints, elapsed time, and a clean stop on Ctrl-C or SIGTERM."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dreamfusion.camera.orbit import Orbit
from dreamfusion.checkpoint_file import CheckpointFiles, check_readable
from dreamfusion.error import UserError
from dreamfusion.image import LEGIBLE, as_uint8, contact_sheet, write_image
from dreamfusion.report.studio import normal_picture, shade
from dreamfusion.scene.base import Scene
from dreamfusion.scene.picture import render_background, render_picture
from dreamfusion.signals import Stop
from dreamfusion.system import DreamFusion
from dreamfusion.training.loggers import log_picture
from dreamfusion.types import Cameras

ROWS = ("colour", "lit", "normal", "opacity", "the prior's estimate")


class Previews(L.Callback):
    """Writes a contact sheet, also to the loggers, every `every` steps and at the end; never if `every` is 0.

    Columns: four sides. Rows: see ROWS. Then calls `written` with the step.
    """

    def __init__(
        self, orbit: Orbit, folder: Path, every: int, size: int, written: Callable[[int], None] = lambda step: None
    ) -> None:
        self.orbit, self.folder, self.every, self.size, self.written = orbit, folder, every, size, written

    def on_train_batch_end(self, trainer: L.Trainer, system: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        last = trainer.global_step == trainer.max_steps
        if trainer.is_global_zero and self.every > 0 and (last or trainer.global_step % self.every == 0):
            path = self.write(system, trainer.global_step)
            log_picture(trainer.loggers, "preview", path, trainer.global_step)
            self.written(trainer.global_step)

    @torch.no_grad()
    def write(self, system: DreamFusion, step: int) -> Path:
        """Write the sheet of a step; returns its path."""
        azimuth = torch.tensor([0.0, 90.0, 180.0, 270.0])
        cameras = self.orbit.view(azimuth, 15.0, self.size, self.size)
        columns = [_column(system.scene, cameras.one(view)) for view in range(len(cameras))]
        tiles = [np.rint(tile.clip(0, 1) * 255).astype(np.uint8) for row in zip(*columns, strict=True) for tile in row]
        if system.last_guidance is not None:
            tiles += list(as_uint8(self._prior_view(system, len(azimuth))))
        sheet = contact_sheet(tiles, columns=len(azimuth))
        path = self.folder / f"{step:06d}.png"
        write_image(labelled(sheet, ROWS, self.size), path)
        return path

    def _prior_view(self, system: DreamFusion, columns: int) -> Tensor:
        """The prior's denoised estimate of the last training views, at the sheet's size."""
        assert system.last_guidance is not None
        shown = system.last_guidance.denoised[:columns].split(1)  # one at a time: an autoencoder takes gigabytes
        seen = torch.cat([system.distillation.prior.decode(one) for one in shown])
        seen = torch.nn.functional.interpolate(seen.float().clamp(0, 1), (self.size, self.size), mode="nearest")
        blank = torch.ones(columns - len(seen), 3, self.size, self.size, device=seen.device)
        return torch.cat([seen, blank])


class Checkpoints(L.Callback):
    """Writes the checkpoint `path` every `every` steps; 0: only at the end of training.

    After the first step, what other callbacks and the optimizer have for it is checked: the end would be too late.
    """

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every, self._checked = path, every, False

    def setup(self, trainer: L.Trainer, system: L.LightningModule, stage: str) -> None:
        trainer.strategy.checkpoint_io = CheckpointFiles()

    def on_train_batch_end(self, trainer: L.Trainer, system: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not self._checked:
            self._checked = True
            for one in trainer.callbacks:  # type: ignore[attr-defined]
                check_readable(one.state_dict(), f"callbacks.{type(one).__name__}")
            for optimizer in trainer.optimizers:
                check_readable(optimizer.state_dict(), f"optimizer.{type(optimizer).__name__}")
        if self.every > 0 and trainer.global_step % self.every == 0:
            self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        """Replace the checkpoint atomically, after the metrics of its steps.

        Raises:
            UserError: the scene has parameters that are not finite.
        """
        assert trainer.lightning_module is not None
        for logger in trainer.loggers:
            logger.save()  # a run resumed from this checkpoint does not log these steps again
        if not all(bool(p.isfinite().all()) for p in trainer.lightning_module.parameters()):
            raise UserError(
                f"training diverged before step {trainer.global_step}: the scene has non-finite parameters; lower "
                "optimizer.learning_rates.table and optimizer.learning_rates.network, or distillation.guidance_scale"
            )
        trainer.save_checkpoint(self.path, weights_only=False)  # by every process; only the first writes


class Stopwatch(L.Callback):
    """Elapsed seconds of the training over all sessions; earlier sessions are read from the checkpoint.

    It runs from the first step of a session to its last, and not while a run is loaded or finished: a session that
    trains no step adds nothing.
    """

    def __init__(self) -> None:
        self._before = 0.0
        self._started: float | None = None  # while it runs

    @property
    def seconds(self) -> float:
        return self._before + (0.0 if self._started is None else time.monotonic() - self._started)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Exclude what is done in this context, during the training, from the elapsed time."""
        running = self._started is not None
        self._before, self._started = self.seconds, None  # also for a checkpoint that is saved meanwhile
        try:
            yield
        finally:
            if running:
                self._started = time.monotonic()

    def on_train_start(self, trainer: L.Trainer, system: L.LightningModule) -> None:
        self._started = time.monotonic()

    def on_train_end(self, trainer: L.Trainer, system: L.LightningModule) -> None:
        self._before, self._started = self.seconds, None

    def on_exception(self, trainer: L.Trainer, system: L.LightningModule, exception: BaseException) -> None:
        self._before, self._started = self.seconds, None

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._before = float(state_dict["seconds"])


class StopOnInterrupt(L.Callback):
    """The first Ctrl-C, SIGTERM or SIGHUP within `request` ends training after the current step; with several processes
    after the next multiple of `together` steps, as they wait for each other and for their GPUs where they compare."""

    together = 10

    def __init__(self) -> None:
        self.request = Stop("stopping after this step; press Ctrl-C again to end at once")

    @property
    def interrupted(self) -> bool:
        return self.request.number is not None

    def on_train_start(self, trainer: L.Trainer, system: L.LightningModule) -> None:
        self.request.install()  # Lightning has replaced the handler of SIGTERM by its own, which saves nothing

    def on_train_batch_end(self, trainer: L.Trainer, system: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.world_size > 1 and trainer.global_step % self.together:
            return
        # All processes must stop at the same step, whichever of them got the signal.
        if trainer.strategy.reduce_boolean_decision(self.interrupted, all=False):
            self.request.number = self.request.number or signal.SIGINT
            trainer.should_stop = True


def _column(scene: Scene, camera: Cameras) -> list[np.ndarray]:
    """The rows (H, W, 3) of one side. Light and normals are those of the depth: a scene that was never lit has no
    others, and they take no second render."""
    seen = render_picture(scene, camera)
    opacity = seen.opacity[..., None]
    behind = render_background(scene, camera) * (1 - opacity)
    lit, normal = shade(camera, seen) * opacity + behind, normal_picture(camera, seen)
    return [seen.color * opacity + behind, lit, normal, opacity.repeat(3, -1)]


def labelled(sheet: np.ndarray, names: Sequence[str], height: int) -> np.ndarray:
    """Write the names of the rows, which are `height` pixels high, into their corners; not into tiny rows."""
    if height < LEGIBLE // 2:
        return sheet
    picture = Image.fromarray(sheet)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=11)
    for row, name in enumerate(names[: sheet.shape[0] // height]):
        draw.text((4, row * height + 2), name, fill="black", font=font, stroke_width=2, stroke_fill="white")
    return np.asarray(picture)
