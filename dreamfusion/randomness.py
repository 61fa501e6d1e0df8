"""All randomness of a training step, from (seed, step) alone: a resumed run draws what it would have drawn."""

from __future__ import annotations

from enum import IntEnum

import torch


class Stream(IntEnum):
    """What a step draws numbers for; the streams of one step are independent of each other."""

    TRAINING = 0  # jitter of the samples, background, shading, timestep and noise
    OCCUPANCY = 1  # where in its cells the occupancy grid asks the field
    CAMERAS = 2


def step_seed(seed: int, step: int, stream: Stream, rank: int = 0) -> int:
    """A seed for one stream of one step; processes of a distributed run (`rank`) draw different views and noise."""
    return (((rank * 1_000_033) + seed) * 1_000_003 + step) * 16 + stream


def step_generator(seed: int, step: int, stream: Stream, rank: int = 0) -> torch.Generator:
    """The CPU generator of `step_seed`."""
    return torch.Generator().manual_seed(step_seed(seed, step, stream, rank))
