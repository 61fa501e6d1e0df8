"""Moving average of the pocket prior's weights, and checkpoints from which training resumes exactly.

One callback does both: a checkpoint must be written after a step's averaging, and at the end of training before
Lightning replaces the optimizer's weights with the average.
"""

import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EMAWeightAveraging

from dreamfusion.checkpoint_file import CheckpointFiles


class AveragedCheckpoints(EMAWeightAveraging):
    """Average after each step; write `checkpoint` every `minutes` and at the end, then the averaged weights."""

    def __init__(self, decay: float, start_step: int, checkpoint: Path, minutes: float) -> None:
        """`decay` per step; averaging begins at `start_step`, after the fast changes of the first steps."""
        super().__init__(decay=decay, update_starting_at_step=start_step)
        self.checkpoint, self.minutes = checkpoint, minutes
        self._written = time.monotonic()

    @property
    def state_key(self) -> str:
        """The parent's name, the key of this callback's state in checkpoints."""
        return EMAWeightAveraging.__qualname__

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        trainer.strategy.checkpoint_io = CheckpointFiles()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if time.monotonic() - self._written >= 60 * self.minutes:
            trainer.save_checkpoint(self.checkpoint)
            self._written = time.monotonic()

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        trainer.save_checkpoint(self.checkpoint)
        super().on_train_end(trainer, pl_module)
        pl_module.save_weights()
