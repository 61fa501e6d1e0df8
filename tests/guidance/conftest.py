"""Cameras and a hub's cache for the adapters' tests."""

import pytest
import torch

from dreamfusion.guidance import hub
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


@pytest.fixture
def cached_offline(tmp_path, monkeypatch):
    """Puts a folder into the cache of a hub that does not answer."""
    from huggingface_hub import constants

    def put(model, folder):
        cached = tmp_path / f"models--{model.replace('/', '--')}"
        (cached / "refs").mkdir(parents=True)
        (cached / "refs" / "main").write_text("0" * 40)
        (cached / "snapshots").mkdir()
        (cached / "snapshots" / ("0" * 40)).symlink_to(folder)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    hub.hub_answers.cache_clear()
    yield put
    hub.hub_answers.cache_clear()
