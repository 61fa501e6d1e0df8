import numpy as np
import pytest
import torch
from options import option
from skimage.color import rgb2lab

from dreamfusion.pocket.data.captions import caption, recolor, view_words
from dreamfusion.pocket.model.words import COLORS, with_article

LUMINANCE = np.array([0.299, 0.587, 0.114])


@pytest.mark.parametrize(
    ("name", "phrase"),
    [
        ("cat", "a cat"),
        ("armchair", "an armchair"),
        ("orange cactus", "an orange cactus"),
        ("ukulele", "a ukulele"),
        ("upright piano", "an upright piano"),
        ("unicorn", "a unicorn"),
        ("tulips", "tulips"),
        ("rubik's cube", "a rubik's cube"),
        ("wine glass", "a wine glass"),
        ("cactus", "a cactus"),
        ("bread", "bread"),
    ],
)
def test_names_get_the_english_article(name, phrase):
    assert with_article(name) == phrase


@pytest.mark.parametrize(
    ("azimuth", "elevation", "words"),
    [
        (0, 0, "front view"),
        (44.9, 0, "front view"),
        (315.1, 0, "front view"),
        (45, 0, "side view"),
        (90, 60, "side view"),
        (135, 0, "side view"),
        (135.1, 0, "back view"),
        (180, 60, "back view"),
        (0, 60.1, "overhead view"),
    ],
)
def test_view_words_change_at_the_angles_of_the_paper(azimuth, elevation, words):
    assert view_words(azimuth, elevation) == words


def test_view_words_are_those_of_the_default_prompting():
    torch = pytest.importorskip("torch")
    from dreamfusion.camera.orbit import look_from, spherical
    from dreamfusion.prompting.view_dependent import VIEWS

    rng = np.random.default_rng(0)
    azimuth, elevation = (torch.from_numpy(rng.uniform(*r, 200)).float() for r in ((0, 360), (-15, 75)))
    position = spherical(azimuth, elevation, torch.full((200,), 3.0))
    up = torch.tensor([0.0, 1.0, 0.0]).expand_as(position)
    cameras = look_from(position, torch.zeros_like(position), up, azimuth, position, 64, 64)
    words = [f"{VIEWS[i]} view" for i in option("prompting/view_dependent").view(cameras).tolist()]
    assert words == [view_words(float(a), float(e)) for a, e in zip(azimuth, elevation, strict=True)]


def test_captions_have_view_words_and_articles_in_the_given_shares():
    rng = np.random.default_rng(0)
    captions = [caption(rng, "cactus", None, "side view") for _ in range(2000)]
    assert set(captions) == {"cactus", "a cactus", "cactus, side view", "a cactus, side view"}
    assert np.mean([", side view" in text for text in captions]) == pytest.approx(0.5, abs=0.04)
    assert np.mean([text.startswith("cactus") for text in captions]) == pytest.approx(0.1, abs=0.03)
    assert {caption(rng, "cactus", "orange", "side view", view_share=0) for _ in range(50)} == {"an orange cactus"}


def recolored(albedo, alpha, color):
    tensors = (torch.tensor(values, dtype=torch.float32)[None] for values in (albedo, alpha, COLORS[color]))
    return recolor(*tensors)[0].numpy()


@pytest.mark.parametrize("color", COLORS)
def test_recolouring_gives_the_colour_and_preserves_the_order_of_luminance(color):
    rng = np.random.default_rng(0)
    albedo = rng.uniform(0.1, 0.9, (16, 16, 3)).astype(np.float32)
    tinted = recolored(albedo, np.ones((16, 16, 1)), color)
    assert tinted.min() >= 0 and tinted.max() <= 1
    before, after = albedo @ LUMINANCE, tinted @ LUMINANCE
    order = np.argsort(before, axis=None)
    assert (np.diff(after.ravel()[order]) >= -1e-5).all()
    palette = rgb2lab(np.array(list(COLORS.values()))[None])[0]
    mean = rgb2lab(tinted.mean(axis=(0, 1))[None, None])[0, 0]
    assert list(COLORS)[int(np.linalg.norm(palette - mean, axis=1).argmin())] == color


def test_recolouring_ignores_the_background():
    albedo = np.full((4, 4, 3), 0.5, dtype=np.float32)
    alpha = np.zeros((4, 4, 1))
    alpha[:2] = 1
    albedo[2:] = 0.9  # background
    np.testing.assert_allclose(
        recolored(albedo, alpha, "red")[:2], np.broadcast_to(COLORS["red"], (2, 4, 3)), atol=1e-6
    )
