"""The truth of several objects is their models, placed, as one textured mesh."""

import numpy as np
import pytest
import torch

from dreamfusion.ops.rasterize import as_raster, rasterize
from dreamfusion.pocket.data.renders import render_cameras
from dreamfusion.truth.composed import Placed, composed, merged
from dreamfusion.truth.store import find_truth

LEFT, RIGHT = Placed("cat", (-0.5, 0.0, 0.0), 0.4), Placed("teapot", (0.5, 0.1, 0.0), 0.3)


def picture(mesh):
    """Albedo and opacity from the front, (96, 96, 4)."""
    seen = rasterize(as_raster(mesh), render_cameras(np.zeros(1), np.full(1, 15.0), np.full(1, 3.0), 96))
    return torch.cat([torch.as_tensor(seen.albedo)[0], torch.as_tensor(seen.alpha)[0][..., None]], dim=-1)


def test_one_model_where_it_is_alone_is_its_own_truth():
    assert composed([Placed("cat")]) is find_truth("cat")
    smaller = composed([Placed("cat", scale=0.5)])
    np.testing.assert_allclose(smaller.mesh.vertices, 0.5 * find_truth("cat").mesh.vertices, atol=1e-6)


def test_a_model_without_a_truth_leaves_none():
    assert composed([Placed("cat"), Placed("zebra")]) is None
    assert composed([]) is None


def test_two_models_look_like_each_by_itself():
    both, one, other = (composed(layout) for layout in ([LEFT, RIGHT], [LEFT], [RIGHT]))
    assert both.name == "cat, teapot"
    assert [part["model"] for part in both.about["parts"]] == ["sitting cat", "teapot"]
    assert [part["scale"] for part in both.about["parts"]] == [0.4, 0.3]
    assert len(both.mesh.faces) == len(one.mesh.faces) + len(other.mesh.faces)
    seen, left, right = (picture(truth.mesh) for truth in (both, one, other))
    assert not ((left[..., 3] > 0) & (right[..., 3] > 0)).any()
    assert (left[..., 3] > 0.5).sum() > 100 and (right[..., 3] > 0.5).sum() > 100
    torch.testing.assert_close(seen[..., 3], left[..., 3] + right[..., 3])
    for part in (left, right):
        solid = part[..., 3] > 0.99
        assert (seen[..., :3] - part[..., :3])[solid].abs().mean() < 0.01


def test_textures_of_different_sizes_keep_their_places():
    """Each corner of three squares has a colour of its own, by the middle of a texel."""
    meshes = []
    for index, (rows, columns) in enumerate([(2, 2), (2, 4), (4, 3)]):
        texture = np.arange(rows * columns * 3, dtype=np.uint8).reshape(rows, columns, 3) + 50 * index
        row, column = np.meshgrid(range(rows), range(columns), indexing="ij")
        uv = np.stack([(column + 0.5) / columns, 1 - (row + 0.5) / rows], axis=-1).reshape(-1, 2).astype(np.float32)
        vertices = np.zeros((len(uv), 3), np.float32)
        source = find_truth("cat").mesh
        meshes.append(type(source)(vertices, np.array([[0, 1, 2]]), normals=vertices + index, uv=uv, texture=texture))
    together = merged(meshes)
    assert together.texture.shape == (8, 4, 3)
    row = ((1 - together.uv[:, 1]) * 8).astype(int)
    column = (together.uv[:, 0] * 4).astype(int)
    expected = np.concatenate([mesh.texture.reshape(-1, 3) for mesh in meshes])
    np.testing.assert_array_equal(together.texture[row, column], expected)
    assert together.faces.tolist() == [[0, 1, 2], [4, 5, 6], [12, 13, 14]]
    np.testing.assert_array_equal(together.normals, np.concatenate([mesh.normals for mesh in meshes]))
    assert [normal for normal, *_ in together.normals[[0, 4, 12]].tolist()] == [0, 1, 2]


@pytest.mark.parametrize("name", ["cat", "teapot"])
def test_the_truth_of_a_name_is_not_changed_by_a_scene_of_it(name):
    before = find_truth(name).mesh.vertices.copy()
    composed([Placed(name, (1.0, 1.0, 1.0), 0.1), Placed(name)])
    np.testing.assert_array_equal(find_truth(name).mesh.vertices, before)
