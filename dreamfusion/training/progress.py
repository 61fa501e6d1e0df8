"""Progress of a run on one line: step, speed, time left, gradient norm and opacity."""

import logging
import shutil
import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm  # type: ignore[import-untyped]

from dreamfusion.phases import is_own_terminal

log = logging.getLogger(__name__)
FORMAT = "{n_fmt}/{total_fmt} {bar} {rate_fmt}, {remaining} left{postfix}"
WIDEST = 100  # columns
FIGURES_EVERY = 10  # steps: reading a metric synchronises with the device
FIGURES = ("gradient_norm", "opacity")
SILENCE = 60.0  # seconds between two lines at most, without a terminal


class Progress(ProgressBar):
    """A bar on a terminal of its own; otherwise (file, pipe, several runs) a line for each tenth of the run, and at
    least every minute."""

    def __init__(self) -> None:
        super().__init__()
        self._shown = True
        self._bar: tqdm | None = None
        self._first_step, self._started, self._last_line = 0, 0.0, 0.0

    def disable(self) -> None:
        self._shown = False

    def enable(self) -> None:
        self._shown = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._first_step = trainer.global_step
        self._started = self._last_line = time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not self._shown:
            return
        if is_own_terminal():
            self._draw(trainer)
        else:
            self._write(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._close()

    def _draw(self, trainer: L.Trainer) -> None:
        step, steps = trainer.global_step, trainer.max_steps
        if self._bar is None:  # created after the first step, so that its messages stay above the bar
            width = min(shutil.get_terminal_size().columns, WIDEST)
            self._bar = tqdm(
                total=steps, initial=step - 1, file=sys.stdout, ncols=width, bar_format=FORMAT, mininterval=0.5
            )
        if (step - self._first_step) % FIGURES_EVERY == 1 or step == steps:
            self._bar.set_postfix_str(figures(trainer), refresh=False)
        self._bar.update()

    def _write(self, trainer: L.Trainer) -> None:
        step, steps, now = trainer.global_step, trainer.max_steps, time.monotonic()
        if step % max(steps // 10, 1) and step != steps and now - self._last_line < SILENCE:
            return
        self._last_line = now
        speed = (step - self._first_step) / max(now - self._started, 1e-9)
        left = tqdm.format_interval((steps - step) / speed)
        log.info("%d/%d %.2fit/s, %s left, %s", step, steps, speed, left, figures(trainer))

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def figures(trainer: L.Trainer) -> str:
    """FIGURES of the step, such as "gradient norm 4.21, opacity 0.312".

    Not from the metrics of Lightning's own progress bar, which it reads in every step.
    """
    values = trainer.callback_metrics
    return ", ".join(f"{name.replace('_', ' ')} {float(values[name]):.3g}" for name in FIGURES)
