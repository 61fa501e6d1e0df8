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


def test_the_border_is_two_pixels_wide_and_its_median_is_taken_by_channel():
    frame = np.array([0.1, 0.5, 0.9])
    image = np.full((16, 16, 3), 0.3, dtype=np.float32)
    image[:2], image[-2:], image[:, :2], image[:, -2:] = (frame,) * 4
    np.testing.assert_allclose(border_color(image), frame, atol=1e-6)
    image[0] = image[-1] = 0.0  # 32 of 112 pixels
    np.testing.assert_allclose(border_color(image), frame, atol=1e-6)
    image[1], image[-2] = 0.0, 0.0  # 64 of 112
    np.testing.assert_allclose(border_color(image), 0.0, atol=1e-6)


@pytest.mark.parametrize("word", COLORS)
@pytest.mark.parametrize("light", [1.0, 0.75])
def test_colours_are_classified_in_full_and_in_dim_light(word, light):
    assert color_word(np.array(COLORS[word]) * light) == word or (word, light) == ("white", 0.75)


def test_gray_is_not_black_and_near_zero_is():
    assert color_word(np.full(3, 0.4)) == "gray"
    assert color_word(np.full(3, 0.05)) == "black"


def lightness(grey):
    """CIE L of an sRGB grey above 0.04, whose a and b are 0."""
    return 116 * (((grey + 0.055) / 1.055) ** 2.4) ** (1 / 3) - 16


def test_colours_are_compared_in_cells_of_lab_with_less_weight_on_lightness():
    """Pictures without an edge: 64 cells of equal colour, lightness weighs 0.3, and everything is divided by 200."""
    dark, light, red = (np.full((64, 64, 3), color, dtype=np.float32) for color in (0.4, 0.6, (1.0, 0.0, 0.0)))
    one, other, colored = features(np.stack([dark, light, red]))
    expected = 0.3 * (lightness(0.6) - lightness(0.4)) * 8 / 200
    assert np.linalg.norm(other - one) == pytest.approx(expected, rel=1e-3)
    chroma = np.hypot(80.09, 67.20)  # a and b of sRGB's red, whose L is 53.24
    expected = np.hypot(0.3 * (53.24 - lightness(0.4)), chroma) * 8 / 200
    assert np.linalg.norm(colored - one) == pytest.approx(expected, rel=1e-2)
    half = dark.copy()
    half[:8, :8] = 0.6  # one cell
    expected = 0.3 * (lightness(0.6) - lightness(0.4)) / 200
    assert np.linalg.norm((features(half[None])[0] - one)[-192:]) == pytest.approx(expected, rel=1e-3)


def test_gradients_are_hogs_of_nine_directions_in_blocks_of_two_cells_divided_by_seven():
    """A block's histogram has the norm 1 wherever there is an edge, and 7 x 7 blocks of 4 cells overlap."""
    picture = np.zeros((64, 64, 3), np.float32)
    picture[:, ::4] = 1.0
    picture[:, 1::4] = 1.0
    found = features(picture[None])[0]
    gradients, colors = found[:-192], found[-192:]
    assert len(gradients) == 7 * 7 * 4 * 9 and len(colors) == 8 * 8 * 3
    assert np.linalg.norm(gradients.reshape(49, 36), axis=1) == pytest.approx(np.full(49, 1 / 7), rel=1e-3)
