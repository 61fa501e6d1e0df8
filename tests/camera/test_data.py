"""The camera stream depends only on (seed, step, rank)."""

from dataclasses import replace
from itertools import islice

import pytest
import torch

from dreamfusion.camera.data import CameraData, CameraStream
from dreamfusion.camera.orbit import Orbit
from dreamfusion.randomness import Stream, step_generator, step_seed

ORBIT = Orbit([-15, 75], [2.7, 3.3], False, [1.3, 1.4], 0.5, 0.1, 0.1, 0.1, [1, 2], views=2, group=1, size=8)


def stream(**changes):
    return CameraStream(**({"orbit": ORBIT, "max_steps": 10, "seed": 0} | changes))


def test_the_batch_of_a_step_does_not_depend_on_the_first_step():
    whole = list(islice(stream(), 6))
    rest = list(islice(stream(start=4), 2))
    for a, b in zip(whole[4:], rest, strict=True):
        assert torch.equal(a.camera_to_world, b.camera_to_world)
        assert torch.equal(a.light, b.light)
        assert torch.equal(a.fov, b.fov)


def test_steps_seeds_and_processes_differ():
    batches = [stream().batch(3), stream().batch(4), stream(seed=1).batch(3), stream(rank=1).batch(3)]
    positions = {tuple(batch.camera_to_world[0, :, 3].tolist()) for batch in batches}
    assert len(positions) == len(batches)


def test_the_global_generator_is_neither_used_nor_changed():
    torch.manual_seed(1)
    first = stream().batch(0)
    drawn = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), drawn)
    assert torch.equal(stream().batch(0).camera_to_world, first.camera_to_world)


def test_the_image_size_follows_its_schedule():
    growing = stream(orbit=replace(ORBIT, size=[[0, 8], [0.5, 16]]))
    assert [growing.batch(step).height for step in (0, 2, 5, 9, 50)] == [8, 11, 16, 16, 16]


def test_without_a_trainer_the_data_starts_at_step_zero():
    (batch,) = islice(CameraData(ORBIT, 10, 0).train_dataloader(), 1)
    assert torch.equal(batch.camera_to_world, stream().batch(0).camera_to_world)


def test_no_two_of_seed_step_stream_and_rank_share_a_generator():
    seeds = {step_seed(a, b, s, r) for a in range(3) for b in range(50) for s in Stream for r in range(3)}
    assert len(seeds) == 3 * 50 * len(Stream) * 3


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_the_largest_seed_still_makes_a_generator(seed):
    torch.rand(1, generator=step_generator(seed, 10**6, Stream.CAMERAS, 64))
