"""The training data of DreamFusion: nothing but cameras, drawn anew each step."""

from __future__ import annotations

from collections.abc import Iterator

import lightning as L
import torch
from torch.utils.data import DataLoader, IterableDataset

from dreamfusion.camera.orbit import Orbit
from dreamfusion.schedule import ScheduleLike, schedule
from dreamfusion.types import Cameras


class CameraStream(IterableDataset[Cameras]):
    """Endless camera batches from `start` on; the batch of a step depends on (seed, step) alone."""

    def __init__(self, orbit: Orbit, views: int, size: ScheduleLike, max_steps: int, seed: int, start: int) -> None:
        self.orbit, self.views, self.size = orbit, views, schedule(size)
        self.max_steps, self.seed, self.start = max_steps, seed, start

    def __iter__(self) -> Iterator[Cameras]:
        step = self.start
        while True:
            yield self.batch(step)
            step += 1

    def batch(self, step: int) -> Cameras:
        """The cameras of one step."""
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + step) * 16 + 2)
        size = round(self.size(min(step / max(self.max_steps, 1), 1.0)))
        return self.orbit.sample(self.views, size, generator)


class CameraData(L.LightningDataModule):
    """Gives Lightning the camera stream, from the step that the trainer is at."""

    def __init__(self, orbit: Orbit, views: int, size: ScheduleLike, max_steps: int, seed: int) -> None:
        super().__init__()
        self.orbit, self.views, self.size, self.max_steps, self.seed = orbit, views, size, max_steps, seed

    def train_dataloader(self) -> DataLoader[Cameras]:
        start = self.trainer.global_step if self.trainer is not None else 0
        return DataLoader(
            CameraStream(self.orbit, self.views, self.size, self.max_steps, self.seed, start), batch_size=None
        )
