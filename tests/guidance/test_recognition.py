"""The model that a picture shows is found among the codes of a small random volume, wherever the object is."""

import pytest
import torch
from torch.nn import functional as F

from dreamfusion.guidance import recognition
from dreamfusion.guidance.recognition import Recognizer, nearest_model
from dreamfusion.pocket.model.proxy_render import FeatureVolume, ProxyRender


class Volume:
    """Three models: a tall bar, a wide one, and one that is wide from the front and red on its right."""

    names = ("post", "sofa", "sofa")
    variants = FeatureVolume.variants

    def decode(self, subject):
        return subject

    def __call__(self, volume, text, camera):
        model = volume.repeat_interleave(len(camera) // len(volume))
        pictures = torch.zeros(len(camera), 4, 64, 64)
        for picture, which, (sine, cosine) in zip(pictures, model.tolist(), camera[:, :2].tolist(), strict=True):
            if which == 0:
                picture[1:, 16:48, 28:36] = 1.0
            else:
                half = round(4 + 20 * abs(cosine))
                picture[3, 24:40, 32 - half : 32 + half] = 1.0
                picture[2, 24:40, 32 - half : 32 + half] = 0.5
                picture[0, 24:40, 32 : 32 + half] = float(which == 2) * (0.5 + sine / 2)
        return ProxyRender(pictures, pictures[:, :3], pictures)


def seen(model, azimuth):
    turn = torch.deg2rad(torch.tensor([azimuth]))
    camera = torch.cat([turn.sin(), turn.cos(), torch.zeros(10)])[None]
    picture = Volume()(torch.tensor([model]), None, camera).rgba[0]
    return torch.cat([picture[:3] / picture[3:].clamp(min=1e-6), picture[3:]])


@pytest.mark.parametrize(
    ("model", "azimuth", "prompt", "variant", "variants"),
    [(0, 0.0, "a post", 0, 1), (1, 0.0, "a sofa", 0, 2), (2, 33.75, "a sofa", 1, 2), (2, 315.0, "a sofa", 1, 2)],
)
def test_model_and_side_of_a_picture_are_found_wherever_the_object_is(model, azimuth, prompt, variant, variants):
    moved = F.pad(seen(model, azimuth), (40, 0, 16, 24))
    found = nearest_model(Volume(), torch.zeros(3, 2), moved, None, None)
    assert (found.prompt, found.variant, found.variants) == (prompt, variant, variants)
    assert found.overlap > 0.95 and found.difference < 0.05
    if model == 2:
        assert found.azimuth == azimuth
        left, top, right, bottom = found.box
        assert (top, bottom) == (24 / 64, 40 / 64) and left + right == pytest.approx(1, abs=0.02)


def test_a_camera_that_is_set_is_kept():
    found = nearest_model(Volume(), torch.zeros(3, 2), seen(2, 33.75), 30.0, 20.0)
    assert (found.prompt, found.azimuth, found.elevation) == ("a sofa", 30.0, 20.0)


def test_models_are_rendered_in_batches(monkeypatch):
    whole = nearest_model(Volume(), torch.zeros(3, 2), seen(2, 45.0), None, None)
    monkeypatch.setattr(recognition, "BATCH", 2)
    assert nearest_model(Volume(), torch.zeros(3, 2), seen(2, 45.0), None, None) == whole


def test_the_pocket_prior_finds_prompts():
    from dreamfusion.guidance.pocket import PocketPrior
    from dreamfusion.runs.check import RECOGNIZERS

    assert issubclass(PocketPrior, Recognizer)
    assert f"{PocketPrior.__module__}.{PocketPrior.__name__}" in RECOGNIZERS
