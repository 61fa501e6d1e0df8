"""Cameras for the adapters' tests."""

import pytest
import torch

from dreamfusion.types import Cameras


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
