"""The laboratory's ground truth: what the package contains, and that a model becomes the solid that it is."""

from collections import Counter

import numpy as np
import pytest
import trimesh
from omegaconf import OmegaConf
from options import CONF, export_settings

from dreamfusion.camera.orbit import FOV
from dreamfusion.error import UserError
from dreamfusion.ops.rasterize import Material, RasterMesh, as_raster, rasterize
from dreamfusion.pocket.data import truth as making
from dreamfusion.pocket.data.renders import render_cameras
from dreamfusion.truth.store import (
    AZIMUTHS,
    DATA,
    DISTANCE,
    ELEVATION,
    EXTENT,
    file_of,
    find_truth,
    names,
    truth_of,
    write_truth,
)
from dreamfusion.types import Mesh

FREE = ("Public domain", "Creative Commons Attribution 3.0")


def test_the_package_has_the_names_of_its_settings_apart_by_purpose_and_under_twelve_megabytes():
    wanted = OmegaConf.load(CONF / "mode" / "truth.yaml")
    assert names(held_out=False) == list(wanted.known) and names(held_out=True) == list(wanted.held_out)
    assert len({*wanted.known}) == 60 and len({*wanted.held_out}) == 20
    assert not set(wanted.known) & set(wanted.held_out)
    files = {file_of(name, DATA) for name in names()}
    assert files == set(DATA.glob("*.npz"))
    assert sum(file.stat().st_size for file in files) < 12e6


def test_every_model_may_be_passed_on_and_its_author_is_named():
    credits = (DATA / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for name in names():
        about = truth_of(name).about
        assert about["license"].startswith(FREE), name
        assert about["creator"] in credits and about["model"] in credits


@pytest.mark.parametrize("name", ["cat", "bicycle", "teapot", "bulldog"])
def test_a_truth_is_closed_and_looks_like_its_reference_views(name):
    truth = truth_of(f"a {name}")
    _, place = np.unique(truth.mesh.vertices, axis=0, return_inverse=True)  # seams of the texture duplicate vertices
    faces = place.reshape(-1)[truth.mesh.faces]
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    edges = edges[edges[:, 0] != edges[:, 1]]
    assert Counter(map(tuple, edges)) == Counter(map(tuple, edges[:, ::-1]))  # as many in both directions: closed
    assert 0.9 < np.linalg.norm(truth.mesh.vertices, axis=1).max() < 1.06
    turn = np.arange(AZIMUTHS) * (360 / AZIMUTHS)
    cameras = render_cameras(turn, np.full(AZIMUTHS, ELEVATION), np.full(AZIMUTHS, DISTANCE), truth.views.shape[1])
    assert float(cameras.fov[0]) == FOV
    drawn = rasterize(as_raster(truth.mesh), cameras).alpha > 0.5
    real = truth.views[..., 3] > 127
    assert (drawn & real).sum() / (drawn | real).sum() == pytest.approx(truth.about["iou"], abs=0.01)


def test_what_is_written_is_read_again_within_the_steps_of_its_integers(tmp_path):
    turn = np.linspace(0, 6, 40)
    directions = np.stack([np.cos(turn), np.sin(turn), 0 * turn], axis=1).astype(np.float32)
    texture = np.full((16, 16, 3), 200, np.uint8)
    texture[:, 8:] = (20, 120, 60)
    uv = np.stack([turn / 6, 1 - turn / 6], axis=1).astype(np.float32)
    mesh = Mesh(0.9 * directions, np.array([[0, 1, 2], [39, 38, 37]]), directions, None, uv, texture)
    views = np.zeros((AZIMUTHS, 8, 8, 4), np.uint8)
    views[3] = (250, 100, 50, 255)
    assert write_truth("thing", mesh, views, tmp_path) == file_of("thing", tmp_path).stat().st_size
    (tmp_path / "index.json").write_text('{"thing": {"held_out": true}}')
    found = truth_of("a thing", tmp_path)
    np.testing.assert_allclose(found.mesh.vertices, mesh.vertices, atol=EXTENT / 32767)
    np.testing.assert_allclose(found.mesh.normals, directions, atol=1 / 127)
    np.testing.assert_allclose(found.mesh.uv, uv, atol=0.5 / 1023 + 1e-6)
    np.testing.assert_array_equal(found.mesh.faces, mesh.faces)
    assert np.abs(found.mesh.texture.astype(int) - texture).mean() < 8
    assert np.abs(found.views.astype(int) - views).mean() < 8 and found.about == {"held_out": True}


def test_a_mesh_that_the_integers_cannot_hold_is_refused(tmp_path):
    flat, faces = np.zeros((3, 3), np.float32), np.array([[0, 1, 2]])
    texture, far = np.zeros((4, 4, 3), np.uint8), flat.copy()
    far[1, 2] = -1.01 * EXTENT
    many = np.zeros((2**16 + 1, 3), np.float32)
    views = np.zeros((AZIMUTHS, 8, 8, 4), np.uint8)
    for vertices in (far, many):
        mesh = Mesh(vertices, faces, np.zeros_like(vertices), None, vertices[:, :2], texture)
        with pytest.raises(ValueError, match=r"x: \d+ vertices up to .* from the axes"):
            write_truth("x", mesh, views, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_prompt_means_a_name_with_or_without_an_article_and_nothing_else():
    assert find_truth("A Cat").name == find_truth("cat").name == "cat"
    assert find_truth("a red cat") is None
    with pytest.raises(UserError, match=r'no truth for "a zebra"; it has [0-9]+, "a cat" for example: see'):
        truth_of("a zebra")


def test_open_sheets_become_one_solid_of_their_size_with_their_colours(monkeypatch, tmp_path):
    monkeypatch.setattr(making, "VIEWS", 24)
    monkeypatch.setattr(making, "SIZE", 128)
    box = trimesh.creation.box((1.2, 0.8, 0.6))
    corners = box.vertices[box.faces.reshape(-1)]  # no two triangles share a vertex
    colors = np.repeat(np.where(box.face_normals[:, 2:] > 0.5, [0.9, 0.1, 0.1], [0.2, 0.4, 0.8]), 3, axis=0)
    hidden = corners * 0.5  # an inner box that is never seen
    model = RasterMesh(
        np.concatenate([corners, hidden]),
        np.arange(72).reshape(-1, 3),
        colors=np.concatenate([colors, colors]),
        materials=(Material(),),
    )
    export = export_settings(resolution=64, threshold=1.0, blur=0, smoothing=0, faces=0, texture=64)
    mesh = making.solid_mesh(model, export, skin=0.003)
    solid = trimesh.Trimesh(mesh.vertices, mesh.faces)
    solid.merge_vertices(merge_tex=True, merge_norm=True)
    assert solid.is_watertight
    assert solid.volume == pytest.approx(1.2 * 0.8 * 0.6, rel=0.12)  # the skin and half a pixel outside
    front = rasterize(as_raster(mesh), render_cameras(*np.array([[0.0], [0.0], [3.0]]), resolution=32))
    assert front.albedo[0, 16, 16] == pytest.approx([0.9, 0.1, 0.1], abs=0.06)
    views = np.zeros((AZIMUTHS, 4, 4, 4), np.uint8)
    assert write_truth("thin box", mesh, views, tmp_path) == (tmp_path / "thin-box.npz").stat().st_size
