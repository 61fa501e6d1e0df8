"""Training data of DreamFusion: random cameras, drawn at each step."""

from collections.abc import Iterator
from itertools import count

import lightning as L
from torch.utils.data import DataLoader, IterableDataset

from dreamfusion.camera.orbit import Orbit
from dreamfusion.randomness import Stream, step_generator
from dreamfusion.types import Cameras


class CameraStream(IterableDataset[Cameras]):
    """Endless camera batches from step `start`; each batch depends only on (seed, step, rank)."""

    def __init__(self, orbit: Orbit, max_steps: int, seed: int, start: int = 0, rank: int = 0) -> None:
        self.orbit, self.max_steps, self.seed, self.start, self.rank = orbit, max_steps, seed, start, rank

    def __iter__(self) -> Iterator[Cameras]:
        return map(self.batch, count(self.start))

    def batch(self, step: int) -> Cameras:
        """Cameras of one step."""
        progress = min(step / max(self.max_steps, 1), 1.0)
        return self.orbit.sample(progress, step_generator(self.seed, step, Stream.CAMERAS, self.rank))


class CameraData(L.LightningDataModule):
    """Data module of the camera stream, starting at the trainer's current step."""

    def __init__(self, orbit: Orbit, max_steps: int, seed: int) -> None:
        super().__init__()
        self.orbit, self.max_steps, self.seed = orbit, max_steps, seed

    def train_dataloader(self) -> DataLoader[Cameras]:
        start, rank = (0, 0) if self.trainer is None else (self.trainer.global_step, self.trainer.global_rank)
        stream = CameraStream(self.orbit, self.max_steps, self.seed, start, rank)
        return DataLoader(stream, batch_size=None)
