"""`cast_rays` and `project` are inverses."""

import pytest
import torch

from dreamfusion.camera.rays import cast_rays, project


def pixel_middles(height, width):
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([columns, rows], dim=-1).reshape(1, -1, 2)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (6, 10), (9, 5)])
def test_a_point_on_the_ray_of_a_pixel_projects_to_the_pixel_centre(cameras_at, height, width):
    cameras = cameras_at([0.0, 75.0, 200.0], [10.0, -15.0, 80.0], height=height, width=width)
    rays = cast_rays(cameras)
    for t in (0.5, 3.0):
        points = (rays.origins + t * rays.directions).view(3, -1, 3)
        expected = pixel_middles(height, width).expand(3, -1, -1)
        torch.testing.assert_close(project(cameras, points), expected, atol=1e-4, rtol=0)


def test_directions_are_unit_and_origins_are_the_camera(cameras_at):
    cameras = cameras_at([0.0, 75.0], height=5)
    rays = cast_rays(cameras)
    assert len(rays) == 2 * 5 * 5
    torch.testing.assert_close(rays.directions.norm(dim=-1), torch.ones(50))
    assert torch.equal(rays.origins.view(2, 25, 3)[:, 7], cameras.camera_to_world[:, :, 3])


def test_the_middle_ray_looks_at_the_origin_and_rows_go_down(cameras_at):
    cameras = cameras_at([0.0], height=5)
    directions = cast_rays(cameras).directions.view(5, 5, 3)
    torch.testing.assert_close(directions[2, 2], torch.tensor([0.0, 0.0, -1.0]), atol=1e-6, rtol=0)
    assert directions[0, 2, 1] > 0 > directions[4, 2, 1]  # the first row is the upper one
    assert directions[2, 4, 0] > 0 > directions[2, 0, 0]  # the last column is on the right, +x from the front


def test_the_field_of_view_is_the_vertical_angle_between_the_outer_edges(cameras_at):
    """Pixel centres span (H - 1) / H of the image height."""
    cameras = cameras_at([0.0], focal=1.0, height=101, width=7)
    directions = cast_rays(cameras).directions.view(101, 7, 3)
    slope = directions[0, 3, 1] / -directions[0, 3, 2]
    assert slope.item() == pytest.approx(0.5 * 100 / 101, abs=1e-5)
    sideways = directions[50, 6, 0] / -directions[50, 6, 2]
    assert sideways.item() == pytest.approx(0.5 * 6 / 101, abs=1e-5)  # square pixels


def test_the_origin_projects_to_the_image_centre(cameras_at):
    cameras = cameras_at([33.0, 190.0], [20.0, 89.0], height=8, width=12)
    torch.testing.assert_close(project(cameras, torch.zeros(2, 1, 3)), torch.tensor([[[6.0, 4.0]]] * 2))
