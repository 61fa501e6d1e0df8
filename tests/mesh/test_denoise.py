import numpy as np
import pytest
import trimesh

from dreamfusion.mesh.denoise import denoise, filtered_normals, follow

WIDTH = 0.06


def ball(radius=0.6):
    mesh = trimesh.creation.icosphere(5, radius)  # 20,480 faces
    return np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces)


def box(sides=(1.0, 0.8, 0.6)):
    mesh = trimesh.creation.box(sides)
    vertices, faces = trimesh.remesh.subdivide_to_size(mesh.vertices, mesh.faces, 0.03)
    mesh = trimesh.Trimesh(vertices, faces)  # merges vertices
    return np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces)


def lumpy(vertices, faces, height=0.008, waves=30.0):
    """Moved along the normals by waves of a length of 0.2 scene units."""
    normals = trimesh.Trimesh(vertices, faces, process=False).vertex_normals
    wave = np.sin(waves * vertices + 0.3).prod(1) * 2
    return (vertices + height * wave[:, None] * normals).astype(np.float32)


def tilt(vertices, faces, true):
    """Mean angle in degrees between the faces' normals and the true ones."""
    normals = trimesh.Trimesh(vertices, faces, process=False).face_normals
    return float(np.degrees(np.arccos((normals * true).sum(1).clip(-1, 1))).mean())


def ball_normals(vertices, faces):
    center = vertices[faces].mean(1)
    return center / np.linalg.norm(center, axis=1, keepdims=True)


def test_lumps_of_a_ball_vanish_and_its_size_stays():
    vertices, faces = ball()
    rough = lumpy(vertices, faces)
    smooth = denoise(rough, faces, WIDTH)
    true = ball_normals(vertices, faces)
    assert tilt(smooth, faces, true) < 0.5 * tilt(rough, faces, true)
    volume = [trimesh.Trimesh(each, faces, process=False).volume for each in (vertices, smooth)]
    assert volume[1] == pytest.approx(volume[0], rel=0.01)
    assert smooth.dtype == np.float32 and smooth.shape == rough.shape


def test_lumps_of_a_box_vanish_and_its_edges_stay():
    vertices, faces = box()
    true = trimesh.Trimesh(vertices, faces, process=False).face_normals
    rough = lumpy(vertices, faces, 0.004)
    smooth = denoise(rough, faces, WIDTH)
    assert tilt(smooth, faces, true) < 0.6 * tilt(rough, faces, true)
    ordinary = trimesh.Trimesh(rough, faces, process=False)
    trimesh.smoothing.filter_taubin(ordinary, iterations=200)
    assert tilt(smooth, faces, true) < tilt(ordinary.vertices, faces, true)
    corner = np.abs(vertices).sum(1) > 1.2 - 1e-4
    assert corner.sum() == 8
    lost = [np.linalg.norm((each - vertices)[corner], axis=1).mean() for each in (smooth, ordinary.vertices)]
    assert lost[0] < 0.012 and lost[0] < 0.6 * lost[1]


def test_what_has_no_lumps_hardly_moves():
    for vertices, faces in (ball(), box()):
        assert np.linalg.norm(denoise(vertices, faces, WIDTH) - vertices, axis=1).max() < 0.01


def test_a_ring_thinner_than_the_filter_keeps_its_thickness():
    ring = trimesh.creation.torus(0.5, 0.02, major_sections=240, minor_sections=16)
    moved = denoise(np.asarray(ring.vertices, np.float32), np.asarray(ring.faces), 0.04)
    assert trimesh.Trimesh(moved, ring.faces, process=False).volume == pytest.approx(ring.volume, rel=0.1)


def test_a_surface_that_cannot_be_decimated_needs_little_memory():
    rod = trimesh.creation.cylinder(0.02, 1.0, sections=24)
    slivers = trimesh.Trimesh(*trimesh.remesh.subdivide_to_size(rod.vertices, rod.faces, 0.03))
    moved = denoise(np.asarray(slivers.vertices, np.float32), np.asarray(slivers.faces), 0.5)
    assert np.isfinite(moved).all()


def test_the_two_sides_of_a_thin_plate_do_not_average():
    vertices, faces = box((1.0, 1.0, 0.02))
    rough = lumpy(vertices, faces, 0.004)
    smooth = denoise(rough, faces, WIDTH)
    inner = np.abs(vertices[:, :2]).max(1) < 0.4
    assert np.allclose(np.sign(smooth[inner, 2]), np.sign(vertices[inner, 2]))


def test_a_narrow_filter_works_on_all_faces_and_a_wide_one_on_few():
    vertices, faces = ball()
    rough = lumpy(vertices, faces)
    for width in (0.001, 0.5):
        assert np.isfinite(denoise(rough, faces, width)).all()


def test_degenerate_faces_do_no_harm():
    vertices, faces = ball()
    faces = np.concatenate([faces, [[0, 0, 1], [5, 5, 5]]])
    normals = filtered_normals(vertices.astype(np.float64), faces, WIDTH)
    assert np.isfinite(normals).all()
    moved = follow(vertices.astype(np.float64), faces, normals)
    assert np.linalg.norm(moved - vertices, axis=1).max() < 0.01
    flat = np.zeros((3, 3), np.float32)
    assert np.array_equal(denoise(flat, np.array([[0, 1, 2]]), WIDTH), flat)


def test_the_vertices_follow_the_normals():
    vertices, faces = box()
    true = trimesh.Trimesh(vertices, faces, process=False).face_normals
    rough = lumpy(vertices, faces, 0.004)
    moved = follow(rough.astype(np.float64), faces, np.asarray(true))
    assert tilt(moved, faces, true) < 0.15 * tilt(rough, faces, true)
