"""Quadrilaterals: their file, and where it is installed, Instant Meshes."""

import sys

import numpy as np
import pytest
import trimesh

from dreamfusion.error import UserError
from dreamfusion.export.writer import write_mesh
from dreamfusion.mesh.bake_texture import bake_texture, bake_vertex_colors
from dreamfusion.mesh.quads import from_quads, with_quads
from dreamfusion.types import Mesh


def grey(positions, _):
    return 0 * positions + 0.5


def cube():
    """A cube of six quadrilaterals."""
    vertices = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float32)
    quads = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
    return from_quads(vertices, np.array(quads))


@pytest.mark.parametrize("paint", [bake_vertex_colors, lambda mesh, color, chunk: bake_texture(mesh, color, 64, chunk)])
def test_an_obj_has_the_quadrilaterals_with_colors_or_a_texture(paint, tmp_path):
    write_mesh(paint(cube(), grey, 1000), tmp_path / "mesh.obj")
    rows = [line.split() for line in (tmp_path / "mesh.obj").read_text().splitlines() if line]
    vertices = np.array([[float(x) for x in row[1:4]] for row in rows if row[0] == "v"])
    faces = [[int(corner.split("/")[0]) - 1 for corner in row[1:]] for row in rows if row[0] == "f"]
    assert [len(face) for face in faces] == [4] * 6
    for face in faces:
        assert np.ptp(vertices[face], axis=0).min() == 0 and len(np.unique(vertices[face], axis=0)) == 4  # a side
    assert trimesh.load(tmp_path / "mesh.obj", force="mesh").volume == pytest.approx(1.0)


def test_a_quadrilateral_that_a_seam_parts_is_written_as_two_triangles(tmp_path):
    square = from_quads(np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32), np.array([[0, 1, 2, 3]]))
    parted = Mesh(square.vertices[[0, 1, 2, 0, 2, 3]], np.arange(6).reshape(2, 3), quads=True)
    write_mesh(parted, tmp_path / "mesh.obj")
    assert (tmp_path / "mesh.obj").read_text().count("\nf ") == 2


def test_a_missing_package_is_answered_in_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynanoinstantmeshes", None)
    with pytest.raises(UserError, match=r"type pip install 'dreamfusion\[quads\]'"):
        with_quads(cube(), 1000)


def test_a_ball_of_quadrilaterals_is_a_ball():
    pytest.importorskip("pynanoinstantmeshes", reason="it is not installed: pip install 'dreamfusion[quads]'")
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.5)
    found = with_quads(Mesh(ball.vertices.astype(np.float32), np.asarray(ball.faces)), 2000)
    assert found.quads and 1000 < len(found.faces) < 4000
    np.testing.assert_allclose(np.linalg.norm(found.vertices, axis=1), 0.5, atol=0.01)
    assert (found.normals * found.vertices).sum(1).min() > 0.45
