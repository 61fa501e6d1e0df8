"""Rasterisation against closed forms: silhouettes, depth, normals, textures, occlusion; crease normals."""

import numpy as np
import pytest
import torch
import trimesh

from dreamfusion.ops.normals import MOST, crease_normals
from dreamfusion.ops.rasterize import Material, RasterMesh, rasterize
from dreamfusion.types import Cameras

FOV, DISTANCE, SIZE = 40.0, 3.0, 32
FOCAL = 0.5 * SIZE / np.tan(np.radians(FOV) / 2)  # pixels

RED, GREEN, BLUE, WHITE = (255, 0, 0, 255), (0, 255, 0, 255), (0, 0, 255, 255), (255, 255, 255, 255)


def camera(azimuth: float = 0.0, elevation: float = 0.0, distance: float = DISTANCE, size: int = SIZE) -> Cameras:
    a, e = np.radians(azimuth), np.radians(elevation)
    back = np.array([np.cos(e) * np.sin(a), np.sin(e), np.cos(e) * np.cos(a)])
    right = np.array([np.cos(a), 0, -np.sin(a)])
    pose = np.stack([right, np.cross(back, right), back, distance * back], axis=1)
    one = torch.ones(1)
    return Cameras(
        camera_to_world=torch.tensor(pose, dtype=torch.float32)[None],
        fov=FOV * one,
        azimuth=azimuth * one,
        elevation=elevation * one,
        distance=distance * one,
        light=torch.zeros(1, 3),
        height=size,
        width=size,
    )


def quad(z: float = 0.0, half: float = 0.5, **surface) -> RasterMesh:
    """A square perpendicular to the z axis, facing +z."""
    corners = np.array([[-half, -half, z], [half, -half, z], [half, half, z], [-half, half, z]])
    uv = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    return RasterMesh(corners, np.array([[0, 1, 2], [0, 2, 3]]), uv=uv, **surface)


def join(*meshes: RasterMesh) -> RasterMesh:
    starts = np.cumsum([0, *(len(m.vertices) for m in meshes)])
    return RasterMesh(
        vertices=np.concatenate([m.vertices for m in meshes]),
        faces=np.concatenate([m.faces + start for m, start in zip(meshes, starts[:-1], strict=True)]),
        uv=np.concatenate([m.uv for m in meshes]),
        material=np.repeat(np.arange(len(meshes)), [len(m.faces) for m in meshes]),
        materials=tuple(m.materials[0] for m in meshes),
    )


def sphere() -> RasterMesh:
    ball = trimesh.creation.icosphere(subdivisions=5)
    return RasterMesh(ball.vertices, ball.faces, normals=ball.vertices)


def rays(size: int = SIZE) -> np.ndarray:
    """(size, size, 3) unit directions through the pixel centres of the camera at azimuth 0."""
    offset = (np.arange(size) + 0.5 - size / 2) / (FOCAL * size / SIZE)
    x, y = np.meshgrid(offset, -offset)
    direction = np.stack([x, y, -np.ones_like(x)], axis=-1)
    return direction / np.linalg.norm(direction, axis=-1, keepdims=True)


def test_silhouette_of_a_sphere_is_its_projected_disc():
    alpha = rasterize(sphere(), camera()).alpha[0]
    radius = FOCAL * np.tan(np.arcsin(1 / DISTANCE))
    assert alpha.sum() == pytest.approx(np.pi * radius**2, rel=2e-3)


def test_normals_and_depth_of_a_sphere_are_those_of_the_points_the_rays_hit():
    view = rasterize(sphere(), camera(), supersample=1)
    direction, origin = rays(), np.array([0.0, 0.0, DISTANCE])
    along = direction @ origin
    inside = along**2 - (DISTANCE**2 - 1)
    hit = inside > 0.02  # the icosphere's silhouette is a polygon
    depth = -along[hit] - np.sqrt(inside[hit])
    np.testing.assert_allclose(view.depth[0][hit], depth, atol=4e-3)
    np.testing.assert_allclose(view.normal[0][hit], origin + depth[:, None] * direction[hit], atol=0.02)


def test_front_quad_has_its_exact_colour_coverage_and_depth():
    view = rasterize(quad(materials=(Material((0.2, 0.4, 0.6)),)), camera())
    covered = view.alpha[0] > 0
    np.testing.assert_allclose(view.albedo[0][covered], np.broadcast_to([0.2, 0.4, 0.6], (covered.sum(), 3)), atol=1e-6)
    np.testing.assert_allclose(view.normal[0][covered], np.broadcast_to([0.0, 0.0, 1.0], (covered.sum(), 3)), atol=1e-6)
    fine = rasterize(quad(), camera(), supersample=16).alpha
    assert fine.sum() == pytest.approx((FOCAL / DISTANCE) ** 2, rel=0.01)
    depth = rasterize(quad(), camera(), supersample=1).depth[0]
    np.testing.assert_allclose(depth[depth > 0], (DISTANCE / -rays()[..., 2])[depth > 0], rtol=1e-5)
    assert not view.albedo[0][~covered].any() and not view.depth[0][~covered].any()


def test_supersampling_covers_pixels_in_part():
    width = 3.25 * DISTANCE / FOCAL  # 3.25 pixels from the middle to each side
    alpha = rasterize(quad(half=width), camera()).alpha[0]
    np.testing.assert_allclose(alpha[SIZE // 2, 12:20], [0.25, 1, 1, 1, 1, 1, 1, 0.25])


def test_azimuth_90_shows_the_side_towards_plus_x():
    def face(normal: list[float], color: tuple[float, float, float]) -> RasterMesh:
        side = quad(z=0.5, materials=(Material(color),))
        turn = trimesh.geometry.align_vectors([0, 0, 1], normal)[:3, :3]
        return RasterMesh(side.vertices @ turn.T, side.faces, uv=side.uv, materials=side.materials)

    cube = join(
        face([0, 0, 1], (1, 0, 0)), face([1, 0, 0], (0, 1, 0)), face([-1, 0, 0], (0, 0, 1)), face([0, 1, 0], (1, 1, 0))
    )
    middle = (0, SIZE // 2, SIZE // 2)
    for view, color in (
        (camera(0), (1, 0, 0)),
        (camera(90), (0, 1, 0)),
        (camera(-90), (0, 0, 1)),
        (camera(0, elevation=89), (1, 1, 0)),
    ):
        np.testing.assert_allclose(rasterize(cube, view).albedo[middle], color, atol=1e-6)


def test_textures_are_upright():
    texture = np.array([[RED, GREEN], [BLUE, WHITE]], np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    view = rasterize(quad(materials=(Material(texture=texture),)), camera()).albedo[0]
    low, high = SIZE // 2 - 4, SIZE // 2 + 3
    for (row, column), color in {(low, low): RED, (low, high): GREEN, (high, low): BLUE, (high, high): WHITE}.items():
        np.testing.assert_allclose(view[row, column], np.array(color[:3]) / 255, atol=1e-6)


def test_vertex_colours_are_interpolated_in_perspective():
    """On a quad leaning back by 60 degrees, red is the height along the quad where the ray hits."""
    lean = np.radians(60)
    up = np.array([0.0, np.cos(lean), -np.sin(lean)])
    corners = np.array([-0.5 * np.eye(3)[0] - 0.5 * up, 0.5 * np.eye(3)[0] - 0.5 * up])
    vertices = np.concatenate([corners, corners[::-1] + up])
    height = np.array([0.0, 0.0, 1.0, 1.0])
    mesh = RasterMesh(vertices, np.array([[0, 1, 2], [0, 2, 3]]), colors=np.repeat(height[:, None], 3, axis=1))
    view = rasterize(mesh, camera(), supersample=1)
    normal = np.cross([1.0, 0, 0], up)
    direction = rays()
    hit = np.array([0, 0, DISTANCE]) - direction * (DISTANCE * normal[2] / (direction @ normal))[..., None]
    covered = view.alpha[0] > 0
    assert covered.sum() > 30
    np.testing.assert_allclose(view.albedo[0][covered][:, 0], (hit @ up + 0.5)[covered], atol=1e-5)


def test_the_nearer_surface_wins_in_either_order():
    near, far = quad(z=0.3, materials=(Material((1, 0, 0)),)), quad(z=-0.3, materials=(Material((0, 1, 0)),))
    for mesh in (join(near, far), join(far, near)):
        np.testing.assert_allclose(rasterize(mesh, camera()).albedo[0, SIZE // 2, SIZE // 2], (1, 0, 0))


def test_transparent_texels_are_holes_and_do_not_darken_their_surroundings():
    texture = np.full((8, 8, 4), 255, np.uint8)
    texture[:, :4] = 0
    leaf = quad(z=0.3, materials=(Material(texture=texture),))
    view = rasterize(leaf, camera())
    middle = view.alpha[0, SIZE // 2, SIZE // 2 - 3 : SIZE // 2 + 3]
    np.testing.assert_allclose(middle, [0, 0, 0, 1, 1, 1])
    np.testing.assert_allclose(view.albedo[0][view.alpha[0] > 0], 1.0, atol=1e-6)
    behind = rasterize(join(leaf, quad(z=-0.3, materials=(Material((0, 1, 0)),))), camera())
    np.testing.assert_allclose(behind.albedo[0, SIZE // 2, SIZE // 2 - 3], (0, 1, 0))


def test_faces_show_on_both_sides_with_the_normal_towards_the_camera():
    view = rasterize(quad(), camera(azimuth=180))
    np.testing.assert_allclose(view.normal[0, SIZE // 2, SIZE // 2], (0, 0, -1), atol=1e-6)


def test_triangles_across_the_camera_plane_are_left_out():
    mesh = RasterMesh(np.array([[-1.0, -1, 0], [1, -1, 0], [0, 1, 5]]), np.array([[0, 1, 2]]))
    view = rasterize(mesh, camera())
    assert not view.alpha.any() and np.isfinite(view.depth).all()


def test_a_mesh_without_faces_is_an_empty_image():
    assert not rasterize(RasterMesh(np.zeros((0, 3)), np.zeros((0, 3), np.int64)), camera()).alpha.any()


def test_creases_stay_sharp_and_curves_become_smooth():
    box = trimesh.creation.box()
    corners = crease_normals(box.vertices, box.faces, 45)
    np.testing.assert_allclose(corners, np.repeat(box.face_normals[:, None], 3, axis=1), atol=1e-12)
    ball = trimesh.creation.icosphere(subdivisions=3)
    loose = ball.vertices[ball.faces].reshape(-1, 3)  # each face with vertices of its own
    smooth = crease_normals(loose, np.arange(len(loose)).reshape(-1, 3), 45).reshape(-1, 3)
    assert (smooth * loose).sum(axis=1).min() > 0.999


def test_where_more_faces_meet_than_a_mesh_has_a_corner_has_its_faces_normal():
    """A million faces in a point would take a million million steps."""
    angle = np.linspace(0, 2 * np.pi, MOST + 2)
    rim = np.stack([np.cos(angle), np.sin(angle), np.full_like(angle, 0.1)], axis=1)
    fan = np.stack([np.zeros(MOST + 1, int), np.arange(1, MOST + 2), np.arange(2, MOST + 3)], axis=1)
    for count in (MOST, MOST + 1):
        corners = crease_normals(np.concatenate([[[0.0, 0.0, 0.0]], rim]), fan[:count], 45)
        assert (np.ptp(corners[:, 0], axis=0).max() < 1e-9) == (count == MOST)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"faces": np.array([[0, 1, 4]])}, "outside of the 4 vertices"),
        ({"colors": np.zeros((3, 3))}, r"colors has shape \(3, 3\), expected \(4, 3\)"),
        ({"material": np.array([0, 1])}, "outside of the 1 materials"),
    ],
)
def test_arrays_that_do_not_fit_are_named(change, message):
    fields = {"vertices": np.zeros((4, 3)), "faces": np.array([[0, 1, 2], [0, 2, 3]])} | change
    with pytest.raises(ValueError, match=message):
        RasterMesh(**fields)


def test_supersample_must_be_positive():
    with pytest.raises(ValueError, match="supersample is 0"):
        rasterize(quad(), camera(), supersample=0)
