"""The prior that knows the answer: every method that follows it fits the scene to the truth."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from options import make_method, option

from dreamfusion.error import UserError
from dreamfusion.guidance.prior import text_branch
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
