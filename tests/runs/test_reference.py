"""A run from a picture: the prior finds its prompt, and the run's files show the picture."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import dreamfusion
from dreamfusion.cli.console import filter_messages
from dreamfusion.error import GuidanceError, UserError
from dreamfusion.guidance.pocket import PocketPrior
from dreamfusion.guidance.recognition import Recognised
from dreamfusion.runs.reference import described

FOUND = Recognised("a chair", 1, 3, 22.5, 30.0, (0.25, 0.125, 0.75, 0.875), overlap=0.9, difference=0.06)


@pytest.fixture
def picture(tmp_path):
    """A red rectangle on white."""
    pixels = np.full((60, 40, 3), 255, np.uint8)
    pixels[10:50, 12:28] = (200, 30, 30)
    path = tmp_path / "chair.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def asked(monkeypatch):
    """The pictures that the prior was asked about, with the cameras; it answers FOUND."""
    calls = []

    def recognise(self, picture, azimuth, elevation):
        calls.append((picture, azimuth, elevation))
        return FOUND

    monkeypatch.setattr(PocketPrior, "recognise", recognise)
    return calls


def test_a_run_from_a_picture_has_its_prompt_and_shows_it(picture, asked, tmp_path, caplog):
    filter_messages()
    caplog.set_level(logging.INFO)
    run = dreamfusion.dream(None, "experiment=smoke", "reference.every=1", image=picture, folder=tmp_path / "run")
    assert caplog.text.count("looks like") == 1
    assert (
        f'image={picture} looks like "a chair" (guidance.variant=1 of 3) from azimuth 22.5, elevation 30 degrees: '
        "silhouettes overlap by 0.90, colours differ by 0.06 (0 to 1)"
    ) in caplog.text
    found = {name: run.settings[name] for name in ("guidance.variant", "reference.azimuth", "reference.elevation")}
    assert found == {"guidance.variant": 1, "reference.azimuth": 22.5, "reference.elevation": 30.0}
    assert "a chair" in run.page.read_text() and "the picture" in run.page.read_text()
    with Image.open(run.folder / "reference.png") as framed:
        box = np.array(framed.getchannel("A").getbbox())
        assert np.abs(box - (19.6, 1, 44.4, 63)).max() <= 1  # with the middle and the area of FOUND.box
    assert "loss/reference_color" in (run.folder / "metrics.csv").read_text().splitlines()[0]


def test_the_prior_sees_the_object_alone_and_given_settings_are_kept(picture, asked, compose_config):
    cfg = compose_config(f"image={picture}", "reference.azimuth=10", "reference.box=[0,0,1,1]")
    assert described(cfg).reference.box == [0, 0, 1, 1]
    ((seen, azimuth, elevation),) = asked
    assert (azimuth, elevation) == (10, None)
    assert seen.shape == (4, 64, 64) and abs(float(seen[3].mean()) - 0.4) < 0.03
    assert described(compose_config(f"image={picture}", "prompt=a cat")).prompt == "a cat"
    assert len(asked) == 1


@pytest.mark.parametrize(("overlap", "difference"), [(0.7, 0.05), (0.9, 0.25)])
def test_a_picture_that_no_known_object_is_like_gets_a_warning(
    overlap, difference, picture, monkeypatch, compose_config, caplog
):
    poor = Recognised("a lamp", 0, 1, 0.0, 15.0, FOUND.box, overlap, difference)
    monkeypatch.setattr(PocketPrior, "recognise", lambda *given: poor)
    described(compose_config(f"image={picture}"))
    assert 'is no known object; the nearest is "a lamp" from azimuth 0' in caplog.text
    assert 'type prompt="..." for another' in caplog.text


def test_weights_without_codes_and_pictures_without_objects_are_named(picture, compose_config):
    early = SimpleNamespace(model=SimpleNamespace(feature_volume=None), _folder="early")
    with pytest.raises(GuidanceError, match='the weights in early have no codes to fit a picture; type prompt="a cat"'):
        PocketPrior.recognise(early, torch.zeros(4, 8, 8), None, None)
    Image.new("RGB", (32, 32)).save(picture)
    with pytest.raises(UserError, match=r"image=.*chair\.png has no object"):
        described(compose_config(f"image={picture}"))
