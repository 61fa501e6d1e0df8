"""Distribution of cameras and lights (Poole et al. 2022, App. A.2)."""

import math
from dataclasses import replace

import pytest
import torch

from dreamfusion.camera.orbit import Orbit, around, focal_to_fov, look_from, spherical
from dreamfusion.error import UserError

PLAIN = Orbit(
    elevation=[-15, 75],
    distance=[2.7, 3.3],
    relative_distance=False,
    focal=[1.0, 1.4],
    uniform_area=0.0,
    position_jitter=0.0,
    look_at_std=0.0,
    up_std=0.0,
    light_distance=[0.8, 1.5],
    views=1,
    group=1,
    size=4,
)
MANY = 20_000


def sample(orbit, views, size, generator):
    return replace(orbit, views=views, size=size).sample(0.0, generator)


def test_every_draw_lies_in_its_range(seeded):
    cameras = sample(PLAIN, MANY, 64, seeded())
    assert (cameras.height, cameras.width) == (64, 64)
    tolerance = 1e-4
    for drawn, (low, high) in (
        (cameras.elevation, PLAIN.elevation),
        (cameras.distance, PLAIN.distance),
        (cameras.azimuth, (0, 360)),
        (cameras.fov, focal_to_fov(torch.tensor([1.4, 1.0])).tolist()),
        (cameras.light.norm(dim=-1), PLAIN.light_distance),
    ):
        assert low - tolerance <= drawn.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < drawn.max() <= high + tolerance


def test_azimuths_of_a_batch_are_stratified_over_the_circle(seeded):
    for seed in range(20):
        azimuth = sample(PLAIN, 8, 4, seeded(seed)).azimuth.sort().values
        gaps = torch.diff(torch.cat([azimuth, azimuth[:1] + 360]))
        assert gaps.max() < 2 * 45  # two neighbouring strata
    everywhere = torch.cat([sample(PLAIN, 2, 4, seeded(seed)).azimuth for seed in range(2000)])
    counts = torch.histc(everywhere, 8, 0, 360)
    assert (counts - 500).abs().max() < 100


def test_each_camera_of_a_batch_may_stand_anywhere_on_the_circle(seeded):
    """Without a common turn, the strata would have the same edges in all steps."""
    first = torch.stack([sample(PLAIN, 4, 4, seeded(seed)).azimuth[0] for seed in range(800)])
    counts = torch.histc(first, 8, 0, 360)
    assert (counts - 100).abs().max() < 50


def test_cameras_of_a_group_differ_in_azimuth_alone_by_equal_angles(seeded):
    jittered = replace(PLAIN, views=12, group=4, uniform_area=0.5, elevation=[0, 30])
    cameras = jittered.sample(0.0, seeded())
    azimuth = cameras.azimuth.view(3, 4)
    torch.testing.assert_close((azimuth - azimuth[:, :1]) % 360, torch.tensor([0.0, 90, 180, 270]).expand(3, 4))
    starts = (azimuth[:, 0] % 90).sort().values
    assert torch.diff(torch.cat([starts, starts[:1] + 90])).max() < 2 * 30  # stratified, too
    for shared in (cameras.elevation, cameras.distance, cameras.fov, cameras.light.norm(dim=-1)):
        groups = shared.view(3, 4)
        torch.testing.assert_close(groups, groups[:, :1].expand(3, 4))
        assert len(groups[:, 0].unique()) == 3


def test_relative_distances_make_a_sphere_equally_large_at_any_focal_length(seeded):
    relative = replace(PLAIN, relative_distance=True, distance=[0.8, 1.0], focal=[0.866, 3.798])
    cameras = sample(relative, MANY, 4, seeded())
    half_height = cameras.distance * torch.tan(torch.deg2rad(cameras.fov) / 2)  # seen at the origin
    assert 0.8 - 1e-4 <= half_height.min() < 0.804
    assert 0.996 < half_height.max() <= 1.0 + 1e-4
    assert 14.9 < cameras.fov.min() < 16
    assert 59 < cameras.fov.max() < 60.1
    view = relative.view(torch.tensor([0.0]), 0.0, 4, 4)
    torch.testing.assert_close(view.distance * torch.tan(torch.deg2rad(view.fov) / 2), torch.tensor([0.9]))


def test_azimuths_around_the_object_stand_in_groups_of_the_views_that_are_coupled():
    assert around(4, 1).tolist() == [0, 90, 180, 270]
    assert around(8, 4).tolist() == [0, 90, 180, 270, 45, 135, 225, 315]
    with pytest.raises(UserError, match="6 views around the object are not a multiple of 4"):
        around(6, 4)


def test_uniform_in_area_means_a_uniform_sine_of_the_elevation(seeded):
    by_area = sample(replace(PLAIN, uniform_area=1.0, elevation=[-10, 90]), MANY, 4, seeded()).elevation
    by_angle = sample(replace(PLAIN, uniform_area=0.0, elevation=[-10, 90]), MANY, 4, seeded()).elevation
    low = math.sin(math.radians(-10))
    sine = torch.sin(torch.deg2rad(by_area))
    assert sine.mean().item() == pytest.approx((low + 1) / 2, abs=0.01)
    assert sine.std().item() == pytest.approx((1 - low) / math.sqrt(12), abs=0.01)
    assert by_angle.mean().item() == pytest.approx(40, abs=0.7)
    assert by_angle.std().item() == pytest.approx(100 / math.sqrt(12), abs=0.5)
    mixed = sample(replace(PLAIN, uniform_area=0.5, elevation=[-10, 90]), MANY, 4, seeded()).elevation
    assert mixed.mean().item() == pytest.approx((by_area.mean() + by_angle.mean()).item() / 2, abs=0.7)


def test_angles_match_the_jittered_position(seeded):
    cameras = sample(replace(PLAIN, position_jitter=1.0), 500, 4, seeded())
    position = cameras.camera_to_world[:, :, 3]
    torch.testing.assert_close(spherical(cameras.azimuth, cameras.elevation, cameras.distance), position)
    assert (cameras.distance < 2.7).any()  # includes the jitter
    assert (cameras.distance > 3.3).any()


LEVEL = replace(PLAIN, elevation=[0, 0], distance=[3, 3])


def test_the_jitter_of_the_position_is_uniform_in_a_cube(seeded):
    height = sample(replace(LEVEL, position_jitter=0.1), MANY, 4, seeded()).camera_to_world[:, 1, 3]
    assert -0.1 <= height.min() < -0.099 and 0.099 < height.max() <= 0.1
    assert height.mean().item() == pytest.approx(0, abs=0.002)
    assert height.std().item() == pytest.approx(0.1 / math.sqrt(3), rel=0.03)


def test_the_point_looked_at_scatters_around_the_origin_and_the_up_vector_around_the_vertical(seeded):
    """To first order in the deviation: the axis misses the origin by two components, and the camera rolls by one."""
    to_world = sample(replace(LEVEL, look_at_std=0.05), MANY, 4, seeded()).camera_to_world
    back, position = to_world[:, :, 2], to_world[:, :, 3]
    miss = position - (position * back).sum(-1, keepdim=True) * back
    assert miss.square().sum(-1).mean().sqrt().item() == pytest.approx(math.sqrt(2) * 0.05, rel=0.03)
    assert miss.mean(0).abs().max().item() < 0.002
    rolled = sample(replace(LEVEL, up_std=0.05), MANY, 4, seeded()).camera_to_world[:, 1, 0]
    assert rolled.std().item() == pytest.approx(0.05, rel=0.03)
    assert rolled.mean().item() == pytest.approx(0, abs=0.002)


def test_rotations_are_right_handed_and_orthonormal(seeded):
    paper = replace(PLAIN, position_jitter=0.1, look_at_std=0.447, up_std=0.141)
    rotation = sample(paper, 500, 4, seeded()).camera_to_world[:, :, :3]
    torch.testing.assert_close(rotation.mT @ rotation, torch.eye(3).expand(500, 3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(500))


def test_a_camera_looks_along_its_own_minus_z_at_the_origin(seeded):
    to_world = sample(PLAIN, 100, 4, seeded()).camera_to_world
    back = to_world[:, :, 2]
    torch.testing.assert_close(back, torch.nn.functional.normalize(to_world[:, :, 3], dim=-1))
    assert (to_world[:, 1, 1] > 0).all()  # up is upwards


def test_the_front_is_plus_z_and_ninety_degrees_is_plus_x():
    positions = spherical(torch.tensor([0.0, 90.0, 0.0]), torch.tensor([0.0, 0.0, 90.0]), torch.tensor([2.0, 3.0, 4.0]))
    expected = torch.tensor([[0.0, 0, 2], [3, 0, 0], [0, 4, 0]])
    torch.testing.assert_close(positions, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("elevation", [90.0, -90.0])
def test_straight_from_above_or_below_the_camera_is_finite_and_orthonormal(cameras_at, elevation):
    rotation = cameras_at([0.0, 137.0], [elevation] * 2).camera_to_world[:, :, :3]
    torch.testing.assert_close(rotation.mT @ rotation, torch.eye(3).expand(2, 3, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(rotation[:, 1, 2], torch.full((2,), math.copysign(1, elevation)))


def test_a_camera_straight_above_has_the_back_of_the_object_on_top_and_leaves_others_of_its_batch_alone(cameras_at):
    both = cameras_at([0.0, 30.0, 75.0], [90.0, 10.0, -20.0]).camera_to_world
    torch.testing.assert_close(both[0, :, 1], torch.tensor([0.0, 0.0, -1.0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(both[0, :, 0], torch.tensor([1.0, 0.0, 0.0]), atol=1e-6, rtol=0)
    for place, (azimuth, elevation) in ((1, (30.0, 10.0)), (2, (75.0, -20.0))):
        torch.testing.assert_close(both[place], cameras_at([azimuth], [elevation]).camera_to_world[0])
        assert both[place, 1, 1] > 0.9  # its up is upwards


def test_looking_at_another_point_turns_the_camera_and_keeps_its_angles():
    position, target = torch.tensor([[0.0, 0.0, 3.0]]), torch.tensor([[1.0, 0.0, 3.0]])
    camera = look_from(position, target, torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([40.0]), position, 4, 4)
    torch.testing.assert_close(camera.camera_to_world[0, :, 2], torch.tensor([-1.0, 0, 0]))
    assert camera.azimuth.item() == 0
    assert camera.distance.item() == 3


def test_lights_scatter_around_the_camera_as_published(seeded):
    """Direction ~ N(camera position, I), normalised; distance uniform."""
    at_front = replace(PLAIN, distance=[3, 3], light_distance=[0.8, 1.5])
    cameras = sample(at_front, MANY, 4, seeded())
    torch.testing.assert_close(cameras.light.norm(dim=-1).mean(), torch.tensor(1.15), atol=0.01, rtol=0)
    back = torch.nn.functional.normalize(cameras.camera_to_world[:, :, 3], dim=-1)
    cosine = (torch.nn.functional.normalize(cameras.light, dim=-1) * back).sum(-1)
    drawn = torch.tensor([0.0, 0, 3]) + torch.randn(MANY, 3, generator=seeded(1))
    expected = (drawn[:, 2] / drawn.norm(dim=-1)).mean()
    torch.testing.assert_close(cosine.mean(), expected, atol=0.01, rtol=0)


def test_the_same_generator_state_gives_the_same_cameras(seeded):
    first, again, other = (sample(PLAIN, 4, 8, seeded(seed)) for seed in (5, 5, 6))
    assert torch.equal(first.camera_to_world, again.camera_to_world)
    assert torch.equal(first.light, again.light)
    assert not torch.equal(first.camera_to_world, other.camera_to_world)


def test_focal_length_and_field_of_view():
    torch.testing.assert_close(focal_to_fov(torch.tensor([0.5, 1.374])), torch.tensor([90.0, 40.0]), atol=0.01, rtol=0)


def test_preview_cameras_use_the_middle_of_the_ranges():
    view = PLAIN.view(torch.tensor([0.0, 90.0]), 15.0, 32, 48)
    torch.testing.assert_close(view.distance, torch.tensor([3.0, 3.0]))
    torch.testing.assert_close(view.elevation, torch.tensor([15.0, 15.0]))
    torch.testing.assert_close(view.azimuth, torch.tensor([0.0, 90.0]))
    torch.testing.assert_close(view.fov, focal_to_fov(torch.tensor([1.2, 1.2])))
    assert (view.height, view.width) == (32, 48)


def test_the_light_of_a_preview_stands_above_the_right_shoulder_at_the_cameras_distance():
    view = PLAIN.view(torch.tensor([0.0, 90.0, 10.0]), torch.tensor([15.0, -20.0, 80.0]), 8, 8)
    expected = spherical(torch.tensor([30.0, 120.0, 40.0]), torch.tensor([50.0, 15.0, 89.0]), torch.full((3,), 3.0))
    torch.testing.assert_close(view.light, expected)
    right, up = view.camera_to_world[:, :, 0], view.camera_to_world[:, :, 1]
    assert ((view.light * right).sum(-1)[:2] > 0.5).all() and ((view.light * up).sum(-1)[:2] > 0.5).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distance": [3, 2]}, r"camera.distance is \[3, 2\]; expected \[low, high\]"),
        ({"focal": [1, 2, 3]}, r"camera.focal is \[1, 2, 3\]; expected \[low, high\]"),
        ({"distance": 3}, r"camera.distance is \[3\]; expected \[low, high\]"),
        ({"elevation": "x"}, r"camera.elevation is \['x'\]; expected \[low, high\]"),
        ({"elevation": [-10, 91]}, "allowed are -90 to 90 degrees"),
        ({"elevation": [-91, 0]}, "allowed are -90 to 90 degrees"),
        ({"distance": [0, 1]}, "camera.distance is .*must be above 0"),
        ({"light_distance": [-1, 1]}, "camera.light_distance is .*must be above 0"),
        ({"uniform_area": 1.5}, "camera.uniform_area is 1.5, expected a fraction"),
        ({"views": 0}, "camera.views is 0; a step needs at least 1 camera"),
        ({"views": 6, "group": 4}, "camera.views is 6, not a multiple of camera.group, 4; type camera.views=4 or"),
        ({"size": 0.4}, "camera.size is 0.4; a view needs at least 1 pixel"),
    ],
)
def test_bad_ranges_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        replace(PLAIN, **change)
