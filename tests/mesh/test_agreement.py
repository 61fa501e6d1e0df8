"""The agreement of a mesh with its scene, of silhouettes and colours that are given."""

from types import SimpleNamespace

import numpy as np
import pytest
from options import option

from dreamfusion.mesh import metrics
from dreamfusion.mesh.metrics import compare, largest_part, near


@pytest.fixture
def compared(monkeypatch):
    """Compares eight pictures of 16 x 16 pixels: the scene's in the grey 0.2, the mesh's in 0.5."""

    def compared(shown, solid, seen=None):
        def render_picture(scene, camera):
            asked.append((camera.azimuth.item(), camera.elevation.item()))
            return SimpleNamespace(opacity=shown[len(asked) - 1], color=np.full((16, 16, 3), 0.2))

        asked = [] if seen is None else seen
        drawn = SimpleNamespace(alpha=solid, albedo=np.full((8, 16, 16, 3), 0.5))
        monkeypatch.setattr(metrics, "SIZE", 16)
        monkeypatch.setattr(metrics, "as_raster", lambda mesh: mesh)
        monkeypatch.setattr(metrics, "rasterize", lambda mesh, cameras: drawn)
        monkeypatch.setattr(metrics, "render_picture", render_picture)
        return compare(None, option("camera/orbit"), None)

    return compared


def test_the_agreement_is_that_over_all_views_of_the_worst_and_of_the_largest_lacking_part(compared):
    shown, solid, seen = np.ones((8, 16, 16)), np.ones((8, 16, 16)), []
    shown[0, :, 8:] = 0.49  # not visible
    solid[3, :, 8:] = 0.0
    solid[4, :2] = 0.0  # near the silhouette
    found = compared(shown, solid, seen)
    assert found.iou == pytest.approx((128 + 128 + 14 * 16 + 5 * 256) / (8 * 256))
    assert found.worst_iou == pytest.approx(0.5)
    assert found.missing == 6 * 16  # 8 columns without the 2 that are near
    assert found.color_difference == pytest.approx(0.3)
    assert seen == [(pytest.approx(45 * view, abs=1e-3), pytest.approx(10, abs=1e-3)) for view in range(8)]
    assert found.sheet.shape == (32, 128, 3)
    assert found.sheet[0, 0].tolist() == [51] * 3  # 0.2 of the scene, above
    assert found.sheet[0, 15].tolist() == [round(255 * (0.2 * 0.49 + 0.51))] * 3  # over white
    assert found.sheet[16, 0].tolist() == [128] * 3 and found.sheet[16, 63].tolist() == [255] * 3


def test_without_a_common_pixel_the_colours_differ_by_one(compared):
    found = compared(np.ones((8, 16, 16)), np.zeros((8, 16, 16)))
    assert (found.iou, found.worst_iou, found.missing, found.color_difference) == (0, 0, 256, 1)
    empty = compared(np.zeros((8, 16, 16)), np.zeros((8, 16, 16)))
    assert (empty.iou, empty.missing) == (0, 0)


def test_near_is_two_pixels_in_all_directions_and_parts_touch_at_corners():
    pixels = np.zeros((9, 9), bool)
    pixels[4, 4] = True
    expected = np.zeros((9, 9), bool)
    expected[2:7, 2:7] = True
    np.testing.assert_array_equal(near(pixels), expected)
    parts = np.zeros((9, 9), bool)
    parts[0, 0] = parts[1, 1] = parts[2, 2] = True
    parts[5:7, 5] = True
    assert largest_part(parts) == 3 and largest_part(np.zeros((3, 3), bool)) == 0
