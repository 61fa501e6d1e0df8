"""Cameras for the adapters' tests, and one thread for their small networks."""

import pytest
import torch

from dreamfusion.types import Cameras


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Small networks lose more to waiting threads than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make_cameras():
    def make(azimuth, elevation=None, distance=None):
        b = len(azimuth)
        return Cameras(
            camera_to_world=torch.zeros(b, 3, 4),
            fov=torch.full((b,), 40.0),
            azimuth=torch.tensor(azimuth),
            elevation=torch.tensor(elevation or [10.0] * b),
            distance=torch.tensor(distance or [3.0] * b),
            light=torch.zeros(b, 3),
            height=64,
            width=64,
        )

    return make
