import numpy as np
import pytest
import torch
from options import export_settings

from dreamfusion.mesh.isosurface import extract_mesh
from dreamfusion.mesh.visual_hull import intersect_visual_hull, lowered, thin_parts_solid

AROUND = [0.0, 45.0, 90.0, 135.0, 180.0, 225.0, 270.0, 315.0]
SIZE = 96


def constant(x):
    return torch.full((len(x),), 5.0)


def discs(cameras, radius):
    """The outline of a ball of `radius` at the origin in every camera: soft over two pixels, 1/2 on the outline."""
    tangent = float(torch.tan(torch.deg2rad(cameras.fov[0]) / 2))
    distance = float(cameras.distance[0])
    rim = radius / (distance**2 - radius**2) ** 0.5 / tangent * SIZE / 2  # pixels
    axis = torch.arange(SIZE) + 0.5 - SIZE / 2
    away = (axis[:, None].square() + axis.square()).sqrt()
    return ((rim - away) / 2 + 0.5).clamp(0, 1).expand(len(cameras), 1, SIZE, SIZE).contiguous()


def test_uniform_fog_is_cut_to_the_visual_hull(cameras_at):
    """At the height of a ring of level cameras, the hull of a ball is a regular polygon around the ball."""
    cameras = cameras_at(AROUND, height=SIZE)
    cut = intersect_visual_hull(constant, 2.0, cameras, discs(cameras, 0.5))
    mesh = extract_mesh(cut, 1.0, 2.0, export_settings(resolution=64, smoothing=0, faces=0, blur=0.0))
    level = np.abs(mesh.vertices[:, 1]) < 0.02
    around = np.linalg.norm(mesh.vertices[level][:, [0, 2]], axis=1)
    octagon = 0.5 / np.cos(np.pi / 8)  # the hull of eight directions is at most that wide
    assert around.min() > 0.5 - 0.03
    assert around.max() < octagon + 0.03
    assert np.abs(mesh.vertices[:, 1]).max() == pytest.approx(0.5, abs=0.05)


def test_opaque_renders_leave_the_density_unchanged(cameras_at):
    cameras = cameras_at(AROUND, height=SIZE)
    cut = intersect_visual_hull(constant, 2.0, cameras, torch.ones(len(cameras), 1, SIZE, SIZE))
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    torch.testing.assert_close(cut(points), constant(points))


def test_one_transparent_render_removes_the_density(cameras_at):
    cameras = cameras_at(AROUND, height=SIZE)
    opacity = torch.ones(len(cameras), 1, SIZE, SIZE)
    opacity[3] = 0
    assert intersect_visual_hull(constant, 2.0, cameras, opacity)(torch.zeros(1, 3)).item() < 0.01


def test_opacity_one_half_is_the_surface_for_any_threshold(cameras_at):
    cameras = cameras_at([0.0], height=SIZE)
    half = torch.full((1, 1, SIZE, SIZE), 0.5)
    for threshold in (0.1, 3.0):
        limited = intersect_visual_hull(lambda x: constant(x) * 100, threshold, cameras, half)
        assert limited(torch.zeros(1, 3)).item() == pytest.approx(threshold)


def test_the_lowered_threshold_is_exceeded_on_all_but_two_thousandths_of_the_opaque_rays():
    density = torch.arange(1.0, 1001.0)
    opacity = (density > 500).float()
    found = lowered(900.0, density, opacity)
    assert (density[opacity > 0.5] > found).float().mean() == pytest.approx(0.998, abs=0.001)
    assert lowered(3.0, density, opacity) == 3.0  # never raised
    assert lowered(3.0, density, torch.zeros(1000)) == 3.0


def test_a_translucent_twig_becomes_solid_and_a_body_fog_and_a_faint_thread_stay_as_they_are():
    image = torch.zeros(1, 1, 64, 64)
    image[..., 8:40, 8:40] = torch.linspace(0.6, 1, 32)
    image[..., 45:60, 5:60] = 0.4  # fog, 15 pixels wide
    body = image.clone()
    image[..., 20:22, 42:60] = 0.45
    image[..., 30:32, 42:60] = 0.2
    solid = thin_parts_solid(image)
    torch.testing.assert_close(solid[..., 20:22, 42:60], torch.full((1, 1, 2, 18), 0.9))
    assert (solid[..., 30:32, 42:60] < 0.5).all()
    torch.testing.assert_close(solid[..., 8:40, 8:40], body[..., 8:40, 8:40])
    assert (solid[..., 45:60, 5:60] < 0.9).all()
