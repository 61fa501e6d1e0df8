"""`mode=image` on the mixture, whose distribution is known."""

import json

import numpy as np
import pytest
from PIL import Image

from dreamfusion.camera.orbit import Orbit
from dreamfusion.error import UserError
from dreamfusion.guidance.mixture import MixturePrior
from dreamfusion.mode import image

RED, BLUE = (0.9, 0.1, 0.1), (0.1, 0.2, 0.9)
FAST = ("mode=image", "guidance=mixture", "mode.images=6", "mode.steps=80", "mode.snapshots=2")


def colours(folder, images=6):
    """Mean colour of each picture of the last row."""
    sheet = np.asarray(Image.open(folder / "images.png").convert("RGB")) / 255
    side = (sheet.shape[1] + 2) // images
    return np.array([sheet[-100:, i * side : i * side + 100].mean(axis=(0, 1)) for i in range(images)])


def made(launch, folder, *overrides):
    ended = launch(folder, *FAST, *overrides)
    assert ended.status in (0, None), ended.text
    (run,) = (folder / "outputs" / "image").rglob("images.png")
    return run.parent, ended.text


@pytest.mark.parametrize("space", ["pixels", "latents"])
def test_pictures_reach_the_colour_that_the_text_names(launch, tmp_path, space):
    folder, text = made(launch, tmp_path, "prompt=red", f"mode.space={space}", "mode.learning_rate=0.05")
    assert np.abs(colours(folder) - RED).max() < 0.1
    figures = json.loads((folder / "images.json").read_text())
    assert figures["prompt"] == "red"
    assert len(figures["gradient_norm"]) == 80
    assert "red by mixture, SDS: 80 steps" in text


def test_low_noise_seeks_modes_and_its_diversity_is_between_the_pictures(launch, tmp_path):
    low = ("distillation.min_timestep=0.02", "distillation.max_timestep=0.5", "mode.learning_rate=0.05")
    folder, _ = made(launch, tmp_path, "prompt=red or blue", *low)
    found = colours(folder)
    to_red, to_blue = (np.abs(found - colour).max(axis=1) for colour in (RED, BLUE))
    assert (np.minimum(to_red, to_blue) < 0.15).all()
    diversity = json.loads((folder / "images.json").read_text())["diversity"]
    both = (to_red < 0.15).any() and (to_blue < 0.15).any()
    assert (diversity > 0.1) == both


def test_views_that_are_predicted_together_are_spread_around_the_object(compose_config, tmp_path, monkeypatch):
    monkeypatch.setattr(MixturePrior, "views", 4)
    cfg = compose_config("guidance=mixture", "prompt=red")
    settings = {"space": "pixels", "steps": 1, "learning_rate": 0.05, "snapshots": 1, "elevation": 15.0}
    with pytest.raises(UserError, match=r"mode\.images is 6; mixture predicts 4 views .* type mode\.images=4"):
        image.run(cfg, images=6, azimuths=[0.0], **settings)
    seen = []

    def end(*given):
        raise InterruptedError

    view = Orbit.view
    monkeypatch.setattr(Orbit, "view", lambda self, azimuth, *rest: seen.append(azimuth) or view(self, azimuth, *rest))
    monkeypatch.setattr(image, "_start", end)
    with pytest.raises(InterruptedError):
        image.run(cfg, images=8, azimuths=[10.0], **settings)
    assert seen[0].tolist() == [10.0, 100.0, 190.0, 280.0] * 2


def test_bad_settings_are_one_line(launch, tmp_path):
    for setting, message in {
        "mode.space=voxels": "mode.space is voxels; type mode.space=pixels|latents",
        "mode.learning_rate=0.0": "mode.learning_rate is 0.0; it must be above 0",
        "distillation=vsd": "distillation=vsd trains an adapter, which guidance=mixture does not have",
    }.items():
        assert message in launch(tmp_path, *FAST, "prompt=red", setting).text


def test_a_single_row_is_that_of_the_end(launch, tmp_path):
    rows = []
    for snapshots in (1, 2):
        (tmp_path / str(snapshots)).mkdir()
        folder, _ = made(
            launch, tmp_path / str(snapshots), "prompt=red", "mode.steps=20", f"mode.snapshots={snapshots}"
        )
        rows.append((colours(folder), json.loads((folder / "images.json").read_text())["diversity"]))
    np.testing.assert_array_equal(rows[0][0], rows[1][0])
    assert rows[0][1] == rows[1][1]
