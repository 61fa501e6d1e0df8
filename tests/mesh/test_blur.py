import numpy as np
from scipy.ndimage import gaussian_filter

from dreamfusion.mesh.blur import REACH, blur, thin_parts

SIDE, CELLS = 96, 2.5
AXIS = np.arange(SIDE) - SIDE / 2
X, Y, Z = np.meshgrid(AXIS, AXIS, AXIS, indexing="ij")


def soft(distance):
    """Occupancy of a solid by the signed distance from its surface, cells."""
    return (0.5 - distance / 2).clip(0, 1).astype(np.float32)


BODY = soft(np.sqrt(X**2 + Y**2 + Z**2) - 20)
TWIG = soft(np.maximum(np.sqrt(Y**2 + Z**2) - 2.5, np.abs(X - 20) - 20))  # 5 cells thick, 20 cells out of the body


def blurred(occupancy):
    result = occupancy.copy()
    blur(result, CELLS)
    return result


def test_a_twig_of_two_standard_deviations_stays_on_a_body_that_is_blurred_as_ever():
    result = blurred(np.maximum(BODY, TWIG))
    middle = SIDE // 2
    assert result[middle + 32, middle, middle] > 0.6
    assert gaussian_filter(TWIG, CELLS)[middle + 32, middle, middle] < 0.5  # what is a twig here
    away = X < 10
    plain = gaussian_filter(np.maximum(BODY, TWIG), CELLS, mode="constant", truncate=REACH)
    np.testing.assert_allclose(result[away], plain[away], atol=1e-6)


def test_lumps_and_pits_are_no_thin_parts():
    lumps = soft(np.sqrt(X**2 + Y**2 + Z**2) - 20 - 1.5 * np.sin(X) * np.sin(Y) * np.sin(Z))
    pitted = lumps * (1 - soft(np.sqrt((X - 12) ** 2 + (Y - 8) ** 2 + Z**2) - 2))
    plain = gaussian_filter(pitted, CELLS, mode="constant", truncate=REACH)
    assert not thin_parts(pitted, plain, CELLS).any()
    np.testing.assert_allclose(blurred(pitted), plain, atol=1e-6)


def test_what_is_thin_everywhere_is_kept_whole():
    result = blurred(TWIG)
    inside = np.sqrt(Y**2 + Z**2) < 1.5
    assert (result[inside & (X > 3) & (X < 37)] > 0.5).all()
    assert (result[[0, -1]] == 0).all() and (result[:, [0, -1]] == 0).all() and (result[:, :, [0, -1]] == 0).all()
