import numpy as np
import pytest
import torch
import trimesh

from dreamfusion.mesh.bake_texture import bake_texture, bake_vertex_colors, unwrap
from dreamfusion.ops.rasterize import as_raster, rasterize
from dreamfusion.types import Mesh

SIZE, CHUNK = 128, 2**18


def place(x, normals):
    """The colour at a position: (x + 1) / 2 of each coordinate."""
    return 0.5 + 0.5 * x


@pytest.fixture(scope="module")
def ball():
    surface = trimesh.creation.icosphere(subdivisions=4, radius=0.6)
    vertices = np.asarray(surface.vertices, np.float32)
    return Mesh(vertices, np.asarray(surface.faces, np.int64), (vertices / 0.6).astype(np.float32))


def face_colors(mesh):
    """The texture's colour (F, 3) at the centre of every face, and the centre."""
    uv = mesh.uv[mesh.faces].mean(1)
    height, width, _ = mesh.texture.shape
    row = np.clip(((1 - uv[:, 1]) * height).astype(int), 0, height - 1)
    column = np.clip((uv[:, 0] * width).astype(int), 0, width - 1)
    return mesh.texture[row, column] / 255.0, mesh.vertices[mesh.faces].mean(1)


def across(u, v):
    """Twice the signed area between the vectors (..., 2) u and v."""
    return u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]


def test_vertex_colors_are_those_of_the_field_at_the_vertices(ball):
    np.testing.assert_allclose(bake_vertex_colors(ball, place, CHUNK).colors, 0.5 + 0.5 * ball.vertices, atol=1e-6)


def test_colors_depend_on_the_normal_and_are_clamped(ball):
    baked = bake_vertex_colors(ball, lambda x, n: 10.0 * n, CHUNK)
    np.testing.assert_allclose(baked.colors, np.clip(10.0 * ball.normals, 0, 1), atol=1e-6)


def test_a_texel_has_the_color_of_its_surface_point(ball):
    baked = bake_texture(ball, place, SIZE, CHUNK)
    assert baked.texture.shape == (SIZE, SIZE, 3)
    colors, middles = face_colors(baked)
    texel = 2 * np.sqrt(4 * np.pi * 0.36) / SIZE  # its diagonal on the surface, were the texture full to a half
    assert np.abs(colors - (0.5 + 0.5 * middles)).max() < texel + 1 / 255


def test_charts_keep_the_shape_and_do_not_overlap(ball):
    flat = unwrap(ball, SIZE)
    assert flat.uv.min() >= 0
    assert flat.uv.max() <= 1
    np.testing.assert_allclose(
        np.sort(flat.vertices[flat.faces].reshape(-1, 9), axis=0), np.sort(ball.vertices[ball.faces].reshape(-1, 9), 0)
    )
    a, b, c = (flat.uv[flat.faces[:, i]].astype(np.float64) for i in range(3))
    areas = np.abs(across(b - a, c - a)) / 2
    points = np.random.default_rng(0).uniform(size=(500, 2))
    inside = np.zeros(len(points), int)
    for p, q, r, area in zip(a, b, c, areas, strict=True):
        if area > 1e-12:
            sides = [across(v - u, points - u) for u, v in ((p, q), (q, r), (r, p))]
            inside += (np.min(sides, 0) > 1e-9) | (np.max(sides, 0) < -1e-9)
    assert inside.max() == 1
    assert inside.mean() == pytest.approx(areas.sum(), abs=0.08)


def test_seams_do_not_show_from_any_side(ball, cameras_at):
    """A ball of one colour keeps it exactly, whatever lies between the charts."""
    baked = bake_texture(ball, lambda x, n: torch.full_like(x, 0.6), SIZE, CHUNK)
    assert (baked.texture == 153).all()
    smooth = bake_texture(ball, place, SIZE, CHUNK)
    seen = rasterize(as_raster(smooth), cameras_at([0.0, 90.0, 200.0], height=48))
    wanted = rasterize(as_raster(bake_vertex_colors(ball, place, CHUNK)), cameras_at([0.0, 90.0, 200.0], height=48))
    whole = (seen.alpha == 1) & (wanted.alpha == 1)
    assert np.abs(seen.albedo - wanted.albedo)[whole].max() < 0.03


def test_chunk_limits_the_points_evaluated_at_once_and_does_not_change_the_texture(ball):
    evaluated = []

    def counted(x, n):
        evaluated.append(len(x))
        return place(x, n)

    pieces = bake_texture(ball, counted, 32, chunk=100)
    assert max(evaluated) <= 100
    np.testing.assert_array_equal(pieces.texture, bake_texture(ball, place, 32, CHUNK).texture)


def test_a_mesh_without_normals_is_named(ball):
    with pytest.raises(ValueError, match="has no normals"):
        bake_vertex_colors(Mesh(ball.vertices, ball.faces), place, CHUNK)


def test_charts_keep_a_distance_from_the_border_of_the_texture(ball):
    """A bilinear lookup there would take the opposite edge, which viewers repeat, or black."""
    for size in (SIZE, 512):
        uv = unwrap(ball, size).uv * size
        assert uv.min() >= 4 and uv.max() <= size - 4


def test_bands_of_rows_give_the_texture_of_the_whole(ball, monkeypatch):
    whole = bake_texture(ball, place, SIZE, CHUNK)
    monkeypatch.setattr("dreamfusion.mesh.bake_texture.BAND", 7 * SIZE * 4)
    np.testing.assert_array_equal(bake_texture(ball, place, SIZE, CHUNK).texture, whole.texture)
