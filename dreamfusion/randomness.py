"""Random generators of a training step, derived from (seed, step): a resumed run draws the same numbers."""

from enum import IntEnum

import torch
from torch import Tensor


class Stream(IntEnum):
    """Purposes of random numbers in a step; the streams of a step are independent of each other."""

    TRAINING = 0  # jitter of the samples, background, shading, timestep and noise
    OCCUPANCY = 1  # positions in the cells where the occupancy grid queries the field
    CAMERAS = 2


def step_seed(seed: int, step: int, stream: Stream, rank: int = 0) -> int:
    """Seed of one stream of one step; processes of a distributed run (`rank`) draw different views and noise."""
    return (((rank * 1_000_033) + seed) * 1_000_003 + step) * 16 + stream


def step_generator(
    seed: int, step: int, stream: Stream, rank: int = 0, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Generator on `device` seeded by `step_seed`; each type of device draws numbers of its own."""
    return torch.Generator(device).manual_seed(step_seed(seed, step, stream, rank))


def uniform(*shape: int, generator: torch.Generator, device: torch.device | None = None) -> Tensor:
    """Uniform numbers in [0, 1) drawn where the generator is: a transfer to the device would wait for it."""
    return torch.rand(shape, generator=generator, device=generator.device).to(device or generator.device)


def gaussian(*shape: int, generator: torch.Generator, device: torch.device | None = None) -> Tensor:
    """Standard Gaussian numbers, as `uniform`."""
    return torch.randn(shape, generator=generator, device=generator.device).to(device or generator.device)


def chance(share: float, generator: torch.Generator) -> bool:
    """Whether an event of this probability happens; drawn on the host, which would wait for a device's number."""
    if generator.device.type != "cpu":  # bit 3 of a seed is free, see `step_seed`: independent of the step's streams
        generator = torch.Generator().manual_seed(generator.initial_seed() ^ 8)
    return bool(torch.rand((), generator=generator) < share)
