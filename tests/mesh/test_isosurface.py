import math

import numpy as np
import pytest
import torch
import trimesh
from options import export_settings
from skimage.measure import marching_cubes
from torch import Tensor

from dreamfusion.mesh import density_grid
from dreamfusion.mesh.density_grid import EmptyFieldError, sample_occupancy
from dreamfusion.mesh.isosurface import extract_mesh
from dreamfusion.types import Mesh

THRESHOLD = 10.0
SHARPNESS = 40.0  # of the analytic fields: the density falls by e over 1/40 of a scene unit


def ball(center: tuple[float, float, float] = (0.0, 0.0, 0.0), radius: float = 0.6):
    """Density THRESHOLD * exp(SHARPNESS * (radius - |x - center|)): its isosurface is exactly the sphere."""
    return lambda x: THRESHOLD * torch.exp(SHARPNESS * (radius - (x - torch.tensor(center)).norm(dim=1)))


def union(*fields):
    return lambda x: torch.stack([field(x) for field in fields]).amax(0)


def extract(density, radius=1.0, resolution=64, **options) -> Mesh:
    settings = {"smoothing": 0, "denoise": 0.0, "faces": 0, "blur": 0.0} | options
    return extract_mesh(density, radius, THRESHOLD, export_settings(resolution=resolution, **settings))


def as_trimesh(mesh: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)


def volume_of_ball(radius: float) -> float:
    return 4.0 / 3.0 * math.pi * radius**3


def test_sphere_is_watertight_with_the_volume_of_a_ball() -> None:
    mesh = as_trimesh(extract(ball(radius=0.6)))
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.euler_number == 2
    assert mesh.volume == pytest.approx(volume_of_ball(0.6), rel=0.01)  # positive: the faces point outwards


def test_occupancy_places_vertices_five_times_better_than_density() -> None:
    cell, axis = 2.0 / 64, torch.linspace(-1.0, 1.0, 65)
    density = ball(radius=0.6)(torch.cartesian_prod(axis, axis, axis)).view(65, 65, 65).numpy()

    def error(vertices: np.ndarray) -> float:  # in cells
        return float(np.abs(np.linalg.norm(vertices, axis=1) - 0.6).max() / cell)

    of_density = error(marching_cubes(density, THRESHOLD)[0] * cell - 1.0)
    of_occupancy = error(extract(ball(radius=0.6)).vertices)
    assert of_occupancy < 0.015
    assert of_occupancy < of_density / 5.0


def test_normals_of_a_sphere_point_along_the_radius() -> None:
    mesh = extract(ball(radius=0.6))
    assert mesh.normals is not None
    np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=1), 1.0, atol=1e-5)
    assert (mesh.normals * mesh.vertices / 0.6).sum(1).min() > 0.99


def test_a_decimated_mesh_is_lit_as_the_surface_before() -> None:
    """Its normals are nearer to those of the ellipsoid than the ones that its own triangles have."""
    axes = torch.tensor([0.3, 0.8, 0.5])
    field = lambda x: THRESHOLD * torch.exp(20.0 * (1.0 - (x / axes).norm(dim=1)))  # noqa: E731
    mesh = extract(field, resolution=128, smoothing=8, faces=800)
    assert mesh.normals is not None
    true = mesh.vertices / axes.numpy() ** 2
    true /= np.linalg.norm(true, axis=1, keepdims=True)
    own, kept = (
        np.degrees(np.arccos((normals * true).sum(1).clip(-1, 1)))
        for normals in (as_trimesh(mesh).vertex_normals, mesh.normals)
    )
    np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=1), 1.0, atol=1e-5)
    assert own.mean() > 1.5
    assert kept.mean() < own.mean() / 4


def test_a_decimated_thin_wall_keeps_the_normals_of_its_sides_apart() -> None:
    plate = torch.tensor([0.6, 0.6, 0.02])  # thinner than a cell
    mesh = extract(lambda x: THRESHOLD * torch.exp(20.0 * (1.0 - (x / plate).norm(dim=1))), faces=300)
    assert mesh.normals is not None
    assert (mesh.normals * as_trimesh(mesh).vertex_normals).sum(1).min() > 0.25


def test_binary_density_on_grid_nodes_still_closes() -> None:
    mesh = as_trimesh(extract(lambda x: 2.0 * THRESHOLD * (x.abs().amax(1) <= 0.5).float(), resolution=16))
    assert mesh.is_watertight
    assert mesh.volume > 0.0


def test_surface_through_grid_nodes_has_no_holes() -> None:
    # |x|_1 = 1/2 passes through nodes of the grid exactly: density = threshold there
    mesh = as_trimesh(extract(lambda x: THRESHOLD * torch.exp(SHARPNESS * (0.5 - x.abs().sum(1))), resolution=32))
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(4.0 / 3.0 * 0.5**3, rel=0.01)  # an octahedron


def test_ellipsoid_keeps_its_axes() -> None:
    axes = torch.tensor([0.3, 0.8, 0.5])  # x, y, z
    mesh = extract(lambda x: THRESHOLD * torch.exp(20.0 * (1.0 - (x / axes).norm(dim=1))))
    np.testing.assert_allclose(mesh.vertices.max(0), axes, atol=0.01)
    np.testing.assert_allclose(mesh.vertices.min(0), -axes, atol=0.01)


def test_up_is_y_and_front_is_z() -> None:
    mesh = extract(
        union(ball((0.0, 0.6, 0.0), 0.2), ball((0.0, 0.0, 0.5), 0.1), ball((0.3, 0.0, 0.0), 0.05)),
        min_piece=0.0,
    )
    np.testing.assert_allclose(mesh.vertices.max(0), [0.35, 0.8, 0.6], atol=0.005)
    np.testing.assert_allclose(mesh.vertices.min(0), [-0.2, -0.1, -0.2], atol=0.005)


def test_scene_units_follow_the_radius() -> None:
    mesh = extract(ball((0.5, 0.0, 0.0), 1.0), radius=2.0)
    np.testing.assert_allclose(mesh.vertices.mean(0), [0.5, 0.0, 0.0], atol=0.01)
    assert as_trimesh(mesh).volume == pytest.approx(volume_of_ball(1.0), rel=0.01)


def test_only_the_largest_of_two_pieces_is_kept() -> None:
    field = union(ball((0.5, 0.0, 0.0), 0.3), ball((-0.5, 0.0, 0.0), 0.15))  # areas 1 : 1/4
    assert extract(field, min_piece=0.3).vertices[:, 0].min() > 0.0
    assert as_trimesh(extract(field, min_piece=0.2)).body_count == 2


def test_a_smaller_piece_is_kept_if_it_stands_on_the_floor() -> None:
    large, standing = ball((0.5, 0.0, 0.0), 0.3), ball((-0.5, -0.15, 0.0), 0.15)
    hovering, crumb = ball((-0.5, 0.3, 0.0), 0.15), ball((0.0, -0.26, 0.5), 0.04)
    mesh = as_trimesh(extract(union(large, standing, hovering, crumb), min_piece=1.0, min_standing_piece=0.05))
    assert sorted(np.round(piece.bounds[0, 1], 2) for piece in mesh.split()) == [-0.3, -0.3]
    assert mesh.body_count == 2 and mesh.vertices[:, 0].min() < -0.6
    assert as_trimesh(extract(union(large, standing), min_piece=1.0)).body_count == 1


def test_inside_of_a_hollow_shell_is_dropped() -> None:
    shell = extract(lambda x: THRESHOLD * torch.exp(SHARPNESS * (0.1 - (x.norm(dim=1) - 0.6).abs())), min_piece=0.0)
    assert np.linalg.norm(shell.vertices, axis=1).min() == pytest.approx(0.7, abs=0.002)
    assert as_trimesh(shell).volume == pytest.approx(volume_of_ball(0.7), rel=0.01)


def test_chunk_size_does_not_change_the_mesh() -> None:
    whole, pieces = extract(ball(), resolution=32), extract(ball(), resolution=32, chunk=100)
    np.testing.assert_array_equal(whole.faces, pieces.faces)
    np.testing.assert_allclose(whole.vertices, pieces.vertices, atol=1e-6)


def test_no_more_than_a_chunk_is_evaluated_at_once() -> None:
    evaluated = []

    def density(x: Tensor) -> Tensor:
        evaluated.append(len(x))
        return ball()(x)

    extract(density, resolution=32, chunk=1000)
    assert max(evaluated) <= 1000


def test_sampling_near_the_surface_gives_the_same_mesh_as_sampling_everywhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    field = union(ball((0.3, 0.1, 0.0), 0.4), ball((-0.4, -0.2, 0.1), 0.12))
    evaluated = 0

    def counted(x: Tensor) -> Tensor:
        nonlocal evaluated
        evaluated += len(x)
        return field(x)

    near = extract(counted, resolution=96)
    assert evaluated < 0.2 * 97**3
    monkeypatch.setattr(density_grid, "NEAR", (-1.0, 2.0))
    everywhere = extract(field, resolution=96)
    np.testing.assert_array_equal(near.vertices, everywhere.vertices)
    np.testing.assert_array_equal(near.faces, everywhere.faces)


def test_surface_is_followed_where_the_coarse_points_miss_it() -> None:
    # a rod of less than a block's thickness that leaves the ball: only its root is near a block with density inside
    def rod(x: Tensor) -> Tensor:
        across = (x[:, :2] - torch.tensor([0.01, 0.01])).abs().amax(1)
        return 100.0 * ((across < 0.03) & (x[:, 2] > 0.0) & (x[:, 2] < 0.9)).float()

    mesh = extract(union(ball(radius=0.3), rod), resolution=64)
    assert mesh.vertices[:, 2].max() == pytest.approx(0.9, abs=2.0 / 64)


def test_object_thinner_than_a_block_is_found() -> None:
    assert as_trimesh(extract(ball((0.01, 0.01, 0.01), 0.05), resolution=32)).is_watertight


def test_density_at_the_border_is_capped_by_the_sphere() -> None:
    half_space = as_trimesh(extract(lambda x: THRESHOLD * torch.exp(SHARPNESS * -x[:, 1])))
    assert half_space.is_watertight
    assert half_space.volume == pytest.approx(0.5 * volume_of_ball(1.0 - 2.0 / 64), rel=0.02)
    assert np.linalg.norm(half_space.vertices, axis=1).max() < 1.0


def test_smoothing_removes_ripples_and_keeps_the_volume() -> None:
    def rough(x: Tensor) -> Tensor:
        ripple = 0.01 * torch.sin(90.0 * x).sum(1)
        return THRESHOLD * torch.exp(SHARPNESS * (0.6 + ripple - x.norm(dim=1)))

    before, after = extract(rough), extract(rough, smoothing=10)

    def spread(mesh: Mesh) -> float:
        return float(np.linalg.norm(mesh.vertices, axis=1).std())

    assert spread(after) < 0.6 * spread(before)
    assert as_trimesh(after).volume == pytest.approx(as_trimesh(before).volume, rel=0.01)


def test_decimation_leaves_the_requested_number_of_faces_and_the_ball_closed() -> None:
    mesh = extract(ball(), faces=2000)
    assert 1900 <= len(mesh.faces) <= 2000
    assert as_trimesh(mesh).is_watertight
    assert as_trimesh(mesh).volume == pytest.approx(volume_of_ball(0.6), rel=0.01)
    np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=1), 1.0, atol=1e-5)


def test_empty_field_names_the_densities_and_the_remedies() -> None:
    with pytest.raises(EmptyFieldError, match=r"empty at threshold 10: .* 0\.5 to 3 .*export\.threshold.*longer"):
        extract(lambda x: 0.5 + 2.5 * (x.norm(dim=1) < 0.5).float())


def test_full_field_names_the_densities_and_the_remedies() -> None:
    with pytest.raises(EmptyFieldError, match=r"full at threshold 10: .* 20 to 20 .*export\.threshold"):
        extract(lambda x: torch.full((len(x),), 20.0))


def test_nan_density_is_an_error_and_infinite_density_is_solid() -> None:
    with pytest.raises(ValueError, match="density is NaN at"):
        extract(lambda x: torch.full((len(x),), math.nan))
    solid = extract(lambda x: torch.where(x.norm(dim=1) < 0.5, math.inf, 0.0))
    assert as_trimesh(solid).is_watertight


def test_occupancy_is_the_logistic_of_the_log_density() -> None:
    grid = sample_occupancy(ball(radius=0.5), 1.0, 16, THRESHOLD, 2**18)
    assert grid.shape == (17, 17, 17)
    axis = np.linspace(-1.0, 1.0, 17)
    expected = 1.0 / (1.0 + np.exp(-SHARPNESS * (0.5 - np.abs(axis))))
    near = np.abs(np.abs(axis) - 0.5) < 0.2  # densely sampled, and not cut by the sphere
    np.testing.assert_allclose(grid[near, 8, 8], expected[near], atol=1e-5)


def test_blur_that_removes_a_thin_object_is_an_error() -> None:
    with pytest.raises(EmptyFieldError, match=r"export.blur=0.2 removes the object, .* a smaller value"):
        extract(ball(radius=0.1), blur=0.2)
