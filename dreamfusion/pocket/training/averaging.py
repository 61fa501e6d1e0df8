"""Moving average of the pocket prior's weights, and checkpoints from which training resumes exactly.

One callback does both: a checkpoint must be written after a step's averaging, and at the end of training before
Lightning replaces the optimizer's weights with the average.
"""

import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn

from dreamfusion.checkpoint_file import CheckpointFiles
from dreamfusion.error import UserError

CHECKED_EVERY = 50  # steps: whether the weights are finite; reading that waits for a device


class AveragedCheckpoints(EMAWeightAveraging):
    """Average after each step; write `checkpoint` every `minutes` and at the end, then the averaged weights.

    Weights that are not finite end the training with a UserError and replace no file.
    """

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
        due = time.monotonic() - self._written >= 60 * self.minutes
        if due or trainer.global_step % CHECKED_EVERY == 0:
            self._check(pl_module, trainer.global_step)
        if due:
            trainer.save_checkpoint(self.checkpoint)
            self._written = time.monotonic()

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._check(pl_module, trainer.global_step)
        trainer.save_checkpoint(self.checkpoint)
        super().on_train_end(trainer, pl_module)
        pl_module.save_weights()

    def _check(self, module: nn.Module, step: int) -> None:
        if not all(parameter.isfinite().all() for parameter in module.parameters()):
            kept = (
                f"{self.checkpoint} keeps those before" if self.checkpoint.is_file() else "there is no checkpoint yet"
            )
            raise UserError(
                f"the weights are not finite at step {step}; {kept}: lower mode.module.learning_rate and "
                "mode.module.proxy_learning_rate, or set mode.precision=32-true, and repeat the command"
            )
