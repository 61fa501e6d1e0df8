"""The prior that knows the answer: every method that follows it fits the scene to the truth."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from options import make_method, option

from dreamfusion.error import UserError
from dreamfusion.guidance.prior import null_branch, text_branch
from dreamfusion.ops.rasterize import as_raster, rasterize
from dreamfusion.truth.composed import Placed
from dreamfusion.truth.store import truth_of
from dreamfusion.types import Branch, Conditioning

WHITE = torch.tensor([[1.0, 0.0], [1.0, 0.0]])


@pytest.fixture
def prior():
    return option("guidance/truth", resolution=32, ambient=0.3)


@pytest.fixture
def seen(prior, cameras_at):
    texts = prior.encode_text(["a cat, front view", "a cat, back view", "", ""])
    index = torch.tensor([0, 1])
    return Conditioning(texts[index], texts[index + 2], cameras_at([0.0, 180.0]), appearance=WHITE)


def pictures(cameras):
    drawn = rasterize(as_raster(truth_of("a cat").mesh), cameras.resized(32, 32))
    alpha = drawn.alpha[..., None]
    return torch.from_numpy(np.moveaxis(drawn.albedo * alpha + 1 - alpha, 3, 1).copy())


@pytest.mark.parametrize("name", ["sds", "denoise_fit"])
def test_the_gradient_is_render_minus_picture_at_every_timestep(prior, seen, name):
    rgb = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    limits = {} if name == "denoise_fit" else {"min_timestep": 0.1, "max_timestep": 0.9}
    method = make_method(name, prior, **limits) if limits else option(f"distillation/{name}", prior=prior)
    method(rgb, seen, 0.5, torch.Generator().manual_seed(1)).loss.backward()
    # x = 2 rgb - 1, and a mean over two views
    torch.testing.assert_close(rgb.grad, 2 * 2 * (rgb.detach() - pictures(seen.cameras)) / 2, atol=2e-3, rtol=1e-3)


def test_lit_and_textureless_views_are_compared_with_lit_pictures(prior, seen):
    def clean(code):
        appearance = torch.tensor([[1.0, code]] * 2)
        noise = torch.zeros(2, 3, 32, 32)
        timestep = torch.tensor([500, 500])
        return prior.denoise(noise, timestep, [text_branch(replace(seen, appearance=appearance))])[0]

    plain, lit, white = clean(0.0), clean(1.0), clean(-1.0)
    assert (lit <= plain + 1e-4).all() and (lit < plain - 0.1).any()
    torch.testing.assert_close(white.std(dim=1), torch.zeros(2, 32, 32), atol=1e-4, rtol=0)  # grey


def test_a_lit_picture_is_lambertian_at_the_points_that_the_pixels_see(prior, seen, cameras_at):
    """Eq. 7 of Poole et al. 2022 at the depth of each pixel, with rays from the camera at (0, 0, 3) by hand."""
    cameras, light = cameras_at([0.0]), np.array([0.5, 0.4, 0.6])  # near the surface, so that its place matters
    cameras = replace(cameras, light=torch.from_numpy(light).float()[None])
    drawn = rasterize(as_raster(truth_of("a cat").mesh), cameras.resized(32, 32))
    across = ((np.arange(32) + 0.5) / 16 - 1) * np.tan(np.radians(cameras.fov.item() / 2))
    ways = np.stack(np.broadcast_arrays(across[None, :], -across[:, None], -1.0), axis=-1)
    points = np.array([0, 0, 3]) + drawn.depth[0][..., None] * ways / np.linalg.norm(ways, axis=-1, keepdims=True)
    towards = (light - points) / np.linalg.norm(light - points, axis=-1, keepdims=True)
    bright = 0.3 + 0.7 * (drawn.normal[0] * towards).sum(-1, keepdims=True).clip(0)
    whole = drawn.alpha[0] == 1
    text = seen.text[torch.tensor([0])]
    for code, color in ((1.0, drawn.albedo[0] * bright), (-1.0, np.broadcast_to(bright, (32, 32, 3)))):
        branch = Branch(text, cameras, torch.tensor([[1.0, code]]))
        (clean,) = prior.denoise(torch.zeros(1, 3, 32, 32), torch.tensor([500]), [branch])
        found = clean[0].permute(1, 2, 0).numpy() / 2 + 0.5
        np.testing.assert_allclose(found[whole], color[whole], atol=2e-3)
    assert whole.sum() > 50


def test_the_estimate_of_the_empty_text_is_grey_and_the_noise_levels_are_a_squared_cosine(prior, seen):
    noise, timestep = torch.ones(2, 3, 32, 32), torch.tensor([500, 500])
    text, empty = prior.denoise(noise, timestep, [text_branch(seen), null_branch(seen)])
    assert text.abs().max() > 0.5 and not empty.any()
    abar = prior.alphas_cumprod
    assert (len(abar), abar.dtype) == (1000, torch.float32)
    expected = [np.cos(angle) ** 2 for angle in (0.01, 0.01 + 1.55 * 500 / 999, 1.56)]
    assert abar[[0, 500, 999]].tolist() == pytest.approx(expected, rel=1e-4)


def test_several_objects_stand_where_the_pocket_prior_puts_them(prior, cameras_at):
    """Seen from above, the cat hides a part of the chair."""
    texts = prior.encode_text(["a cat on a chair, front view", "a chair", "kittens"])
    noise, timestep = torch.zeros(1, 3, 32, 32), torch.tensor([500])
    seen = [
        prior.denoise(noise, timestep, [Branch(texts[torch.tensor([i])], cameras_at([0.0]), WHITE[:1])])[0]
        for i in range(3)
    ]
    both, chair, cat = ((picture < 0.98).any(dim=1) for picture in seen)
    assert not torch.equal(both, chair) and not torch.equal(both, cat)
    assert both.sum() > 50
    layout = prior.layout("a cat on a chair")
    assert [placed.name for placed in layout] == ["cat", "chair"] and prior.layout("a cat") == (Placed("cat"),)


def test_a_prompt_without_a_truth_is_refused(prior):
    with pytest.raises(UserError, match='no truth for "a zebra"'):
        prior.encode_text(["a zebra, side view"])
    with pytest.raises(UserError, match='no truth for "a red cat"'):
        prior.warn_if_unknown("a red cat")
