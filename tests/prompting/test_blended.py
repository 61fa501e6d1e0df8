"""Blended view texts and the weights of perp-neg."""

import math
from functools import partial

import pytest
import torch
from options import option
from test_view_dependent import cameras

from dreamfusion.prompting.table import TextTable
from dreamfusion.types import TextEmbedding

blended, perp_neg = partial(option, "prompting/blended"), partial(option, "prompting/perp_neg")
FRONT, SIDE, BACK, OVERHEAD = range(4)


@pytest.fixture
def table():
    """The states of text k are the unit vector k, those of the negative text 7."""
    states = torch.eye(4)[:, None]
    texts = TextEmbedding(states, torch.ones(4, 1, dtype=torch.bool), torch.arange(4.0)[:, None])
    return TextTable(texts, TextEmbedding(torch.full((1, 1, 4), 7.0), torch.ones(1, 1, dtype=torch.bool)))


@pytest.mark.parametrize(
    ("azimuth", "elevation", "expected"),
    [
        (0, 0, {FRONT: 1}), (30, 0, {FRONT: 2 / 3, SIDE: 1 / 3}), (90, 0, {SIDE: 1}), (-90, 0, {SIDE: 1}),
        (300, 0, {FRONT: 1 / 3, SIDE: 2 / 3}), (135, 0, {SIDE: 1 / 2, BACK: 1 / 2}), (180, 59, {BACK: 1}),
        (30, 61, {OVERHEAD: 1}),
    ],
)  # fmt: skip
def test_the_text_is_interpolated_by_azimuth_and_overhead_is_not_blended(table, azimuth, elevation, expected):
    conditioning = blended().condition(table, cameras([azimuth], [elevation]))
    shares = torch.tensor([expected.get(view, 0.0) for view in range(4)])
    torch.testing.assert_close(conditioning.text.states[0, 0], shares)
    torch.testing.assert_close(conditioning.text.pooled[0, 0], shares @ torch.arange(4.0))
    assert conditioning.negative.states.unique().tolist() == [7]
    assert conditioning.opposed is None


def test_a_token_counts_if_a_blended_text_has_it():
    mask = torch.tensor([[True, False], [True, True], [True, True], [True, True]])
    text = TextEmbedding(torch.zeros(4, 2, 1), mask).blend(torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0]]))
    assert text.mask.tolist() == [[True, False], [True, True]]


def published(azimuth, elevation):
    """Weights of (front, side): the formulas of the reference (recipe of threestudio), for one camera."""
    if elevation > 60:
        return 0.0, 0.0
    turn = abs(azimuth) / 90
    if turn < 1:
        r = 1 - turn
        return -(4 * math.exp(-0.5 * r) - 2.426), -(4 * math.exp(-0.5 * (1 - r)) - 2.426)
    r = 2 - turn
    return -(math.exp(-0.5 * r) + 0.967), -(math.exp(-0.5 * r) - 0.606)


@pytest.mark.parametrize("azimuth", [-179, -120, -90, -89, -20, 0, 10, 45, 89, 91, 150, 180])
@pytest.mark.parametrize("elevation", [0, 70])
def test_perp_neg_opposes_the_front_and_the_side_text_with_the_published_weights(table, azimuth, elevation):
    opposed = perp_neg().condition(table, cameras([azimuth] * 2, [elevation] * 2)).opposed
    expected = torch.tensor(published(azimuth, elevation))[:, None].expand(2, 2)
    torch.testing.assert_close(opposed.weights, expected)
    assert opposed.texts.states[:, 0].argmax(-1).tolist() == [FRONT, FRONT, SIDE, SIDE]


def test_no_view_is_opposed_by_its_own_text():
    front, side, back = perp_neg().weights(cameras([0, 90, 180], [0, 0, 0])).T
    assert front[0].item() == pytest.approx(0, abs=1e-3)
    assert side[1].item() == pytest.approx(0, abs=1e-3)
    assert back.max() < -0.3  # both


def test_curves_that_are_not_three_numbers_each_are_named():
    with pytest.raises(ValueError, match=r"perp_neg has \{'front_side': 2\}, expected \[a, b, c\] for each of front_s"):
        blended(perp_neg={"front_side": [1.0, 2.0]})
