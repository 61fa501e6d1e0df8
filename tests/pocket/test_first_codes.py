"""First codes of the feature volume: coarse volumes fitted to the renders."""

from dataclasses import replace

import pytest
import torch
from sets import load_set

from dreamfusion.pocket.data.batches import RenderBatches
from dreamfusion.pocket.training import first_codes
from dreamfusion.pocket.training.assemble import begin_codes
from dreamfusion.pocket.training.first_codes import fit_codes

SIDE = 8


@pytest.fixture(scope="module")
def renders(renders_folder):
    return load_set(renders_folder)


@pytest.fixture(scope="module")
def codes(renders):
    return fit_codes(RenderBatches(renders, 4, seed=0), SIDE)


def test_codes_are_dense_and_coloured_where_the_renders_show_the_object(codes):
    assert codes.shape == (4, 4, SIDE, SIDE, SIDE)
    middle, corner = codes[:, :, 3:5, 3:5, 3:5].mean((2, 3, 4)), codes[:, :, 0, 0, 0]
    assert (middle[:, 0] > corner[:, 0] + 1).all()
    ball, box = middle[0, 1:], middle[1, 1:]
    assert ball[0] > 0.3 and ball[0] > ball[1:].max() + 0.3, "the first is red"
    assert box.argmax() == 1, "the second is green"
    assert 0.2 < codes.std() < 2 and codes.abs().max() <= 4


def test_codes_depend_on_the_seed_and_the_training_views_alone(renders, codes):
    hidden = replace(renders, albedo=renders.albedo.copy(), alpha=renders.alpha.copy())
    hidden.albedo[:, -4:], hidden.alpha[:, -4:] = 77, 255
    torch.testing.assert_close(fit_codes(RenderBatches(hidden, 4, seed=0), SIDE), codes, rtol=0, atol=0)
    assert not torch.equal(fit_codes(RenderBatches(renders, 4, seed=1), SIDE), codes)


def test_the_codes_of_models_follow_their_order_in_the_data(renders, codes):
    some = fit_codes(RenderBatches(renders, 4, seed=0, names={"cat": "cat"}), SIDE)
    assert some.shape[0] == 1
    inside = (codes[:, 0] > 0).float().mean((1, 2, 3))
    assert inside[3] == inside.max(), "the last is the largest"
    assert (some[0, 0] > 0).float().mean() == pytest.approx(float(inside[3]), abs=0.05)


def test_codes_are_in_order_whatever_the_number_that_is_fitted_together(renders, codes, monkeypatch):
    monkeypatch.setattr(first_codes, "MODELS", 2)
    parts = fit_codes(RenderBatches(renders, 4, seed=0), SIDE)
    assert not torch.equal(parts, codes), "other views are drawn"
    far = (parts[:, None] - codes).square().mean((2, 3, 4, 5))
    assert far.argmin(1).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("channels", [2, 4, 6])
def test_codes_of_another_width_take_the_channels_that_both_have(renders, codes, channels):
    own = torch.full((4, channels, SIDE, SIDE, SIDE), 9.0, requires_grad=True)
    begin_codes(own, RenderBatches(renders, 4, seed=0))
    assert torch.equal(own[:, :4], codes[:, :channels])
    assert (own[:, 4:] == 9).all() and own.requires_grad
