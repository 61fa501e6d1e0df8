import pytest
import torch

from dreamfusion.scene.background.solid import ConstantBackground, RandomBackground

RAYS = torch.nn.functional.normalize(torch.randn(4000 * 2, 3, generator=torch.Generator().manual_seed(0)), dim=-1)


def test_a_constant_background_is_its_colour_everywhere():
    color = ConstantBackground([0.2, 0.4, 0.6])(RAYS[:6], 2, torch.Generator())
    torch.testing.assert_close(color, torch.tensor([0.2, 0.4, 0.6]).expand(6, 3))


@pytest.mark.parametrize("color", ["red", [0, 1], [0, 1, 2], 0.5])
def test_a_colour_is_three_numbers(color):
    with pytest.raises(ValueError, match=r"background.color is .*; type three numbers in"):
        ConstantBackground(color)


def test_a_random_background_is_one_colour_a_view_with_the_given_frequencies(seeded):
    colors = RandomBackground(white=0.5, colored=0.2)(RAYS, 4000, seeded()).view(4000, 2, 3)
    assert torch.equal(colors[:, 0], colors[:, 1])
    view = colors[:, 0]
    white = (view == 1).all(dim=-1)
    grey = (view == view[:, :1]).all(dim=-1) & ~white
    assert abs(white.float().mean() - 0.5) < 0.03
    assert abs(grey.float().mean() - 0.3) < 0.03
    assert abs(view[grey].mean() - 0.5) < 0.03  # of any level
    assert view.min() >= 0
    assert view.max() <= 1


def test_a_random_background_is_white_in_evaluation():
    assert (RandomBackground(white=0.0, colored=1.0)(RAYS[:6], 2, None) == 1).all()
