import numpy as np
import pytest

from dreamfusion.evaluation.likeness import border_color, color_word, features
from dreamfusion.pocket.model.words import COLORS


def picture(x, color=(0.8, 0.2, 0.2), background=0.5):
    image = np.full((64, 64, 3), background, dtype=np.float32)
    image[16:48, x : x + 24] = color
    return image


def test_shape_and_colour_both_change_the_features():
    here, moved, blue = picture(10), picture(30), picture(10, (0.2, 0.2, 0.8))
    same, other_place, other_color = features(np.stack([here, moved, blue])) - features(here[None])
    assert np.linalg.norm(same) == 0
    assert np.linalg.norm(other_place) > 0.3 and np.linalg.norm(other_color) > 0.3


def test_dim_light_changes_the_features_less_than_another_colour():
    lit, dim, green = picture(10), picture(10, (0.48, 0.12, 0.12)), picture(10, (0.1, 0.7, 0.2))
    to_dim, to_green = np.linalg.norm(features(np.stack([dim, green])) - features(lit[None]), axis=1)
    assert to_dim < to_green


def test_the_background_is_the_median_of_the_border():
    image = picture(10, background=0.7)
    image[:20, :3] = 0  # the object touches the border
    np.testing.assert_allclose(border_color(image), 0.7)


@pytest.mark.parametrize("word", COLORS)
@pytest.mark.parametrize("light", [1.0, 0.75])
def test_colours_are_classified_in_full_and_in_dim_light(word, light):
    assert color_word(np.array(COLORS[word]) * light) == word or (word, light) == ("white", 0.75)


def test_gray_is_not_black_and_near_zero_is():
    assert color_word(np.full(3, 0.4)) == "gray"
    assert color_word(np.full(3, 0.05)) == "black"
