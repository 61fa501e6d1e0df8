"""Volumes, distances and alignment of surfaces whose answers are known."""

import numpy as np
import pytest
import trimesh

from dreamfusion.evaluation.shape import (
    CELLS,
    EXTENT,
    Similarity,
    align,
    cell_centers,
    distances,
    f_score,
    iou,
    mesh_facts,
    occupancy,
    sample_surface,
    transformed,
)
from dreamfusion.types import Mesh

CELL = 2 * EXTENT / CELLS


def as_mesh(shape):
    return Mesh(np.asarray(shape.vertices, np.float32), np.asarray(shape.faces, np.int64))


def box(*extents, at=(0, 0, 0)):
    return as_mesh(trimesh.creation.box(extents).apply_translation(at))


def joined(*meshes):
    starts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    faces = [mesh.faces + start for mesh, start in zip(meshes, starts[:-1], strict=True)]
    return Mesh(np.concatenate([mesh.vertices for mesh in meshes]), np.concatenate(faces))


def filled(mesh):
    return occupancy(mesh.vertices, mesh.faces)


@pytest.mark.parametrize("subdivisions", [1, 4])
def test_the_occupied_volume_is_that_of_the_divergence_theorem(subdivisions):
    sphere = trimesh.creation.icosphere(subdivisions=subdivisions, radius=0.7)
    assert filled(as_mesh(sphere)).sum() * CELL**3 == pytest.approx(sphere.volume, rel=0.002)


def test_cells_are_counted_along_x_y_and_z_from_below():
    centers, low, high = cell_centers(), np.array([-0.9, -0.2, 0.1]), np.array([0.3, 0.5, 0.7])
    assert centers[0, 0, 0] == pytest.approx([-1.1 + 1.1 / 128] * 3)
    assert centers[1, 2, 3] - centers[0, 0, 0] == pytest.approx(np.array([1, 2, 3]) * 2.2 / 128)
    inside = ((centers > low) & (centers < high)).all(axis=-1)
    np.testing.assert_array_equal(filled(box(*(high - low), at=(low + high) / 2)), inside)


def test_overlapping_parts_count_once_and_a_hollow_is_outside():
    two = joined(box(1, 1, 1), box(1, 1, 1, at=(0.5, 0, 0)))
    assert filled(two).sum() * CELL**3 == pytest.approx(1.5, rel=0.04)
    inner = box(0.5, 0.5, 0.5)
    hollow = joined(box(1, 1, 1), Mesh(inner.vertices, inner.faces[:, ::-1]))
    assert filled(hollow).sum() * CELL**3 == pytest.approx(1 - 0.125, rel=0.04)
    assert not filled(hollow)[CELLS // 2, CELLS // 2, CELLS // 2]


def test_the_iou_of_shifted_boxes_is_that_of_their_overlap():
    one, other = filled(box(1, 1, 1)), filled(box(1, 1, 1, at=(0.25, 0, 0)))
    assert iou(one, other) == pytest.approx(0.75 / 1.25, abs=0.01)
    assert iou(one, one) == 1.0 and iou(np.zeros_like(one), np.zeros_like(one)) == 0.0


def test_parallel_squares_are_as_far_apart_as_they_are():
    square = Mesh(np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32), np.array([[0, 1, 2], [0, 2, 3]]))
    points = sample_surface(square, 20_000)
    assert points.mean(0) == pytest.approx([0.5, 0.5, 0], abs=0.01)
    there, back = distances(points, points + np.array([0, 0, 0.1]))
    assert there == pytest.approx(0.1) and back == pytest.approx(0.1)
    assert f_score(there, back, 0.11) == 1.0 and f_score(there, back, 0.09) == 0.0
    assert f_score(np.array([0.0, 1.0]), np.array([0.0]), 0.5) == pytest.approx(2 * 0.5 / 1.5)


def test_the_alignment_undoes_a_turn_a_scale_and_a_shift_but_not_a_mirror():
    body = joined(box(1, 0.4, 0.6), box(0.2, 0.8, 0.2, at=(0.4, 0.5, 0.1)))
    angle = np.radians(140)
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    moved = transformed(body, Similarity(0.6, turn, np.array([0.2, -0.1, 0.1])))
    found = align(moved, body)
    assert found.scale == pytest.approx(1 / 0.6, rel=0.03)
    assert iou(filled(transformed(moved, found)), filled(body)) > 0.9
    assert np.linalg.det(found.rotation) == pytest.approx(1)


@pytest.mark.parametrize("degrees", [0, 65, 180, 250])
def test_the_alignment_finds_any_turn_around_the_vertical_axis(degrees):
    body = joined(box(1, 0.4, 0.6), box(0.2, 0.8, 0.2, at=(0.4, 0.5, 0.1)))
    a = np.radians(degrees)
    turn = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    found = align(transformed(body, Similarity(1.0, turn, np.zeros(3))), body)
    np.testing.assert_allclose(found.rotation @ turn, np.eye(3), atol=0.06)
    assert found.scale == pytest.approx(1, abs=0.03) and np.abs(found.translation).max() < 0.03


def test_facts_count_pieces_and_measure_the_thinnest_wall():
    plate = joined(box(1.6, 0.2, 1.6), box(0.3, 0.3, 0.3, at=(0, 0.8, 0)))
    facts = mesh_facts(plate)
    assert facts["components"] == 2 and facts["triangles"] == 24
    assert facts["thinnest_wall"] == pytest.approx(0.2, rel=1e-3)
