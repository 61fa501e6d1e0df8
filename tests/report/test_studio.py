"""Pictures in studio light."""

import numpy as np
import pytest
import torch
from options import option

from dreamfusion.camera.rays import cast_rays, project
from dreamfusion.report.studio import Studio, normal_picture, shade, surface_normals, without_lumps
from dreamfusion.scene.picture import Picture, render_picture

ORBIT = option("camera/orbit")


@pytest.mark.parametrize("azimuth", [0.0, 130.0])
def test_normals_of_the_depth_of_a_ball_are_those_of_the_ball(cameras_at, azimuth):
    camera = cameras_at([azimuth], [20.0], height=128, focal=2.0)
    rays = cast_rays(camera)
    along = -(rays.origins * rays.directions).sum(-1)
    inside = 0.25 - (rays.origins**2).sum(-1) + along**2  # radius 0.5
    depth = torch.where(inside > 0, along - inside.clamp(min=0).sqrt(), 0).view(128, 128)
    seen = Picture(
        np.zeros((128, 128, 3), np.float32), (inside > 0).float().view(128, 128).numpy(), depth.numpy(), None
    )
    normal = surface_normals(camera, seen)
    points = (rays.origins + rays.directions * depth.view(-1, 1)).view(128, 128, 3).numpy()
    facing = (inside > 0.1).view(128, 128).numpy()  # towards the rim, the blur mixes in less of the far side
    assert facing.sum() > 1000
    assert np.degrees(np.arccos((normal * points * 2).sum(-1)[facing].clip(-1, 1))).max() < 6
    assert (normal[seen.opacity == 0] == 0).all()
    colors = normal_picture(camera, seen)
    assert (colors[seen.opacity == 0] == 1).all()
    np.testing.assert_allclose(colors[64, 64], 0.5 + 0.5 * normal[64, 64], atol=0.02)


@pytest.fixture
def studio(make_scene, ball):
    """A white ball of radius 0.6 in the light of the studio."""
    scene = make_scene(ball(density=60.0, color=(1.0, 1.0, 1.0))).eval()
    with torch.no_grad():
        yield scene, Studio(scene, ORBIT)


def test_a_ball_is_brightest_above_and_darkest_below_and_its_middle_keeps_its_colour(studio):
    scene, _ = studio
    camera = ORBIT.view(torch.tensor([30.0]), 0.0, 48, 48)
    color = shade(camera, render_picture(scene, camera))[..., 0]
    assert color[24, 24] == pytest.approx(1, abs=0.03)
    assert color[14:24, 24].min() > color[31:36, 24].mean() + 0.1


def test_the_ground_is_below_the_ball_and_its_shadow_under_it(studio):
    scene, light = studio
    assert light.ground == pytest.approx(-0.6, abs=0.05)
    camera = ORBIT.view(torch.tensor([0.0]), 20.0, 64, 64)
    seen = render_picture(scene, camera)
    picture = light.over(camera, seen, np.ones((64, 64, 3)))
    column, row = (int(place) for place in project(camera, torch.tensor([[[0.0, -0.6, 0.5]]]))[0, 0])
    assert picture[row, column, 0] < 0.95
    assert picture[row, 1, 0] > 0.99


def test_an_empty_scene_is_its_background(make_scene, ball):
    scene = make_scene(ball(density=0.0)).eval()
    camera = ORBIT.view(torch.tensor([0.0]), 15.0, 16, 16)
    behind = np.full((16, 16, 3), 0.7)
    with torch.no_grad():
        picture = Studio(scene, ORBIT).over(camera, render_picture(scene, camera), behind)
    np.testing.assert_allclose(picture, behind)


def roof(size):
    """Normals (size, size, 3) of two planes that meet in the middle, with lumps of a tenth of the picture."""
    across, down = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size))
    flat = np.where(across[..., None] < 0, [-0.6, 0.0, 0.8], [0.6, 0.0, 0.8])
    lumps = 0.12 * np.stack([np.sin(30 * across), np.sin(30 * down), 0 * down], -1)
    rough = (flat + lumps) / np.linalg.norm(flat + lumps, axis=-1, keepdims=True)
    return flat.astype(np.float32), rough.astype(np.float32)


@pytest.mark.parametrize("size", [64, 256])
def test_light_falls_on_a_surface_without_lumps_but_with_its_edges(size):
    flat, rough = roof(size)
    even = without_lumps(rough)
    error = [np.degrees(np.arccos((each * flat).sum(-1).clip(-1, 1))) for each in (rough, even)]
    assert error[1].mean() < 0.7 * error[0].mean()
    edge = slice(size // 2 - 1, size // 2 + 1)
    assert error[1][:, edge].max() < 12  # half of the angle between the planes is 37
    np.testing.assert_allclose(np.linalg.norm(even, axis=-1), 1, atol=1e-4)


def test_rays_that_hit_nothing_have_no_normal_and_lend_none():
    flat, _ = roof(64)
    flat[:, :20] = 0
    even = without_lumps(flat)
    assert not even[:, :20].any()
    np.testing.assert_allclose(even[:, 20:30], flat[:, 20:30], atol=1e-4)
