"""Pictures of a ball, compared with the closed form."""

import math

import numpy as np
import pytest
import torch

from dreamfusion.camera.orbit import Orbit
from dreamfusion.scene.background.solid import ConstantBackground
from dreamfusion.scene.nerf.scene import NeRF
from dreamfusion.scene.nerf.stratified import StratifiedRenderer
from dreamfusion.scene.shading import ALBEDO, LAMBERTIAN
from dreamfusion.view import frame
from dreamfusion.view.frame import FAR, STUDIO, View, render_frame

ORBIT = Orbit([0, 0], [3, 3], False, [1.374, 1.374], 0.0, 0.0, 0.0, 0.0, [3, 3], 1, 1, 64)
FRONT = View((0.0, 0.0, 3.0), (0.0, 0.0, -1.0), (0.0, -1.0, 0.0), math.radians(40), 600, 800)


@pytest.fixture
def scene(ball):
    field = ball(500.0, size=0.5, color=(1.0, 0.0, 0.0))
    return NeRF(field, ConstantBackground([0.0, 0.0, 1.0]), StratifiedRenderer(1.0, 400))


@pytest.mark.parametrize(("azimuth", "elevation"), [(0.0, 0.0), (30.0, 15.0), (200.0, -40.0), (90.0, 80.0)])
def test_a_clients_camera_is_the_orbits_camera_at_the_same_place(azimuth, elevation):
    wanted = ORBIT.view(torch.tensor([azimuth]), elevation, 30, 40)
    _, up, back, position = (tuple(axis.tolist()) for axis in wanted.camera_to_world[0].T)
    forward, down = tuple(-x for x in back), tuple(-x for x in up)
    seen = View(position, forward, down, math.radians(wanted.fov.item()), 600, 800).cameras(40)
    assert (seen.height, seen.width) == (30, 40)
    for name in ("camera_to_world", "fov", "elevation", "distance", "light"):
        torch.testing.assert_close(getattr(seen, name), getattr(wanted, name), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("height", "width", "longest", "size"),
    [(600, 800, 80, (60, 80)), (800, 600, 80, (80, 60)), (30, 40, 80, (30, 40)), (1, 5000, 80, (1, 80))],
)
def test_a_picture_has_the_windows_aspect_and_never_more_pixels(height, width, longest, size):
    camera = View(FRONT.position, FRONT.forward, FRONT.down, FRONT.fov, height, width).cameras(longest)
    assert (camera.height, camera.width) == size


def test_the_depth_of_a_ball_and_the_background_beside_it(scene):
    seen = render_frame(scene, FRONT.cameras(80), ALBEDO)
    assert seen.rgb.shape == (60, 80, 3)
    assert seen.rgb[30, 40].tolist() == [255, 0, 0]
    assert seen.rgb[0, 0].tolist() == [0, 0, 255]
    # 3 - 0.5, and within the first samples behind the surface, 2 / 400 apart
    assert seen.depth[30, 40] == pytest.approx(2.5, abs=0.01)
    assert seen.depth[0, 0] == FAR
    # Along the axis of the camera, not along the ray: a ray at angle a meets the ball at t with
    # t^2 - 6 t cos a + 9 - 0.25 = 0, and the depth is t cos a.
    tangent = math.tan(math.radians(20)) * (30 - 20.5) / 30
    cosine = 1 / math.hypot(1.0, tangent, math.tan(math.radians(20)) / 60)
    t = 3 * cosine - math.sqrt(9 * cosine**2 - 8.75)
    assert seen.depth[20, 40] == pytest.approx(t * cosine, abs=0.01)


def test_the_lamps_of_the_studio_shade_the_ball_and_not_the_background(scene):
    """Brighter above than below, by the normals of the depth; what faces the camera keeps its colour."""
    seen, plain = (render_frame(scene, FRONT.cameras(80), light) for light in (STUDIO, ALBEDO))
    red, hidden = seen.rgb[..., 0].astype(int), plain.depth == FAR
    assert red[30, 40] > 245 > red[38, 40]
    assert red[38, 40] + 20 < red[22, 40]
    np.testing.assert_array_equal(seen.rgb[hidden], plain.rgb[hidden])
    np.testing.assert_array_equal(seen.depth, plain.depth)


@pytest.mark.parametrize("light", [LAMBERTIAN, STUDIO], ids=["lambertian", "studio"])
def test_strips_join_without_a_seam(light, scene, monkeypatch):
    whole = render_frame(scene, FRONT.cameras(40), light)
    monkeypatch.setattr(frame, "RAYS", 7 * 40)
    parts = render_frame(scene, FRONT.cameras(40), light)
    np.testing.assert_array_equal(parts.rgb, whole.rgb)
    np.testing.assert_array_equal(parts.depth, whole.depth)


def test_a_stale_picture_is_abandoned_after_its_strip(scene, monkeypatch):
    monkeypatch.setattr(frame, "RAYS", 40)
    answers = iter([False, False, True])
    assert render_frame(scene, FRONT.cameras(40), ALBEDO, lambda: next(answers)) is None
    assert next(answers, None) is None


def test_rendering_draws_no_random_numbers(scene):
    before = torch.get_rng_state()
    first, second = (render_frame(scene, FRONT.cameras(40), ALBEDO) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(first.rgb, second.rgb)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 96), (96, 1)])
def test_a_minimised_window_has_a_picture_in_the_light_of_the_studio(height, width, scene):
    seen = render_frame(scene, FRONT.cameras(96).resized(height, width), STUDIO)
    assert seen.rgb.shape == (height, width, 3)
