import numpy as np
import pytest
import trimesh

from dreamfusion.mesh.simplify import is_watertight, repair, simplify


@pytest.fixture
def ball():
    surface = trimesh.creation.icosphere(subdivisions=4)
    return np.asarray(surface.vertices, np.float32), np.asarray(surface.faces, np.int64)


@pytest.fixture
def bumpy(ball):
    """A ball with spikes all over: edge collapses tear it."""
    vertices, faces = ball
    length = 1 + 0.5 * np.random.default_rng(0).uniform(-1, 1, (len(vertices), 1))
    return (vertices * length).astype(np.float32), faces


@pytest.mark.parametrize("target", [100, 500, 2000])
def test_decimated_ball_has_the_requested_faces_and_is_closed(ball, target):
    vertices, faces = simplify(*ball, target)
    assert 0.9 * target <= len(faces) <= target
    assert is_watertight(vertices, faces)
    before, after = (trimesh.Trimesh(v, f, process=False).volume for v, f in (ball, (vertices, faces)))
    assert after == pytest.approx(before, rel=8 / target)


@pytest.mark.parametrize("target", [200, 1000, 3000])
def test_a_rough_surface_stays_closed(bumpy, target):
    vertices, faces = simplify(*bumpy, target)
    assert 0 < len(faces) <= 1.05 * target
    assert is_watertight(vertices, faces)


@pytest.mark.parametrize("target", [0, 10**6])
def test_no_target_and_one_above_the_count_change_nothing(ball, target):
    assert simplify(*ball, target) == ball


@pytest.mark.parametrize("removed", [1, 2, 7, 40])
def test_a_hole_is_closed(ball, removed):
    vertices, faces = ball
    near = np.linalg.norm(vertices[faces].mean(1) - vertices[faces[5]].mean(0), axis=1).argsort()
    closed_vertices, closed_faces = repair(vertices, np.delete(faces, near[:removed], axis=0))
    assert is_watertight(closed_vertices, closed_faces)
    assert trimesh.Trimesh(closed_vertices, closed_faces, process=False).volume == pytest.approx(4.18, rel=0.02)


def test_two_boxes_that_touch_along_an_edge_are_separated():
    one = trimesh.creation.box()
    vertices = np.concatenate([one.vertices, one.vertices + np.array([1, 1, 0])])
    both = trimesh.Trimesh(vertices, np.concatenate([one.faces, one.faces + 8]), process=False)
    both.merge_vertices()
    assert not both.is_watertight
    vertices, faces = repair(np.asarray(both.vertices, np.float32), np.asarray(both.faces, np.int64))
    assert is_watertight(vertices, faces)
    assert len(faces) == 24
    assert trimesh.Trimesh(vertices, faces, process=False).volume == pytest.approx(2, rel=0.02)


def test_watertight_is_judged_by_positions_as_a_slicer_does():
    """Two boxes with an edge of four faces are not, though each is closed; a box whose faces share no vertex is."""
    one = trimesh.creation.box()
    touching = np.concatenate([one.vertices, one.vertices + np.array([1, 1, 0])])
    assert not is_watertight(touching, np.concatenate([one.faces, one.faces + 8]))
    assert is_watertight(touching + np.repeat([[0], [1]], 8, axis=0), np.concatenate([one.faces, one.faces + 8]))
    assert is_watertight(one.vertices[one.faces].reshape(-1, 3), np.arange(36).reshape(-1, 3))
    assert not is_watertight(one.vertices, one.faces[1:])


@pytest.mark.parametrize("target", [200, 1000])
def test_a_closed_surface_stays_closed_where_a_tool_merges_equal_positions(bumpy, target):
    vertices, faces = simplify(*bumpy, target)
    merged = trimesh.Trimesh(vertices, faces, process=False)
    merged.merge_vertices()
    assert len(merged.vertices) == len(vertices)
    assert merged.is_watertight


def test_a_flat_flap_is_removed(ball):
    vertices, faces = ball
    flap = np.array([[0, 1, 2], [0, 2, 1]])
    repaired_vertices, repaired_faces = repair(vertices, np.concatenate([faces, flap]))
    assert is_watertight(repaired_vertices, repaired_faces)
    assert len(repaired_faces) == len(faces)
