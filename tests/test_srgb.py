"""Images as arrays."""

import numpy as np
import pytest

from dreamfusion.image import linear_from_srgb, srgb_from_linear


def test_srgb_curve_meets_its_fixed_points_and_its_inverse():
    assert linear_from_srgb(np.array([0.0, 1.0])).tolist() == [0.0, 1.0]
    assert linear_from_srgb(np.array([0.04045]))[0] == pytest.approx(0.04045 / 12.92)
    just_above = linear_from_srgb(np.array([0.04045 + 1e-7]))[0]
    assert just_above == pytest.approx(0.04045 / 12.92, abs=1e-6)  # the two branches meet
    colors = np.linspace(0, 1, 101)
    np.testing.assert_allclose(srgb_from_linear(linear_from_srgb(colors)), colors, atol=1e-6)
