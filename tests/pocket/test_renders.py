import json
import logging

import numpy as np
import pytest
from libraries import MTL, OBJ, entry, write_library

from dreamfusion.pocket.data import renders as renders_module
from dreamfusion.pocket.data.catalog import read_catalog
from dreamfusion.pocket.data.names import select_models
from dreamfusion.pocket.data.renders import RenderSet, render_libraries, stratified_cameras


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A box, a broken model, and the box again."""
    items = entry(1, "First box", "/m/box.obj") + entry(2, "Torn thing", "/m/torn.obj")
    files = {"m/box.obj": OBJ.encode(), "m/box.mtl": MTL.encode(), "m/torn.obj": b"v 0 0 0\nf 1 2"}
    items += entry(3, "Second box", "/m/box.obj")
    return write_library(tmp_path_factory.mktemp("library") / "test.sh3f", items, files)


@pytest.fixture(scope="module")
def rendered(library, tmp_path_factory):
    """The render set, its folder, and the log records of rendering."""
    output = tmp_path_factory.mktemp("renders") / "new" / "set"
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append
    renders_module.log.addHandler(handler)
    renders_module.log.setLevel(logging.INFO)
    renders = render_libraries([library], output, views=6, resolution=16, workers=2)
    renders_module.log.removeHandler(handler)
    renders_module.log.setLevel(logging.NOTSET)
    return renders, output, records


def test_a_broken_model_is_skipped_with_one_warning(rendered):
    renders, _, records = rendered
    assert [item.name for item in renders.items] == ["first box", "second box"]
    warning, summary = (record.getMessage() for record in records)
    assert warning.startswith("skipped torn thing (m/torn.obj, test.sh3f): ")
    assert summary.startswith("rendered 2 models, 6 views each") and summary.endswith("1 skipped")


def test_renders_are_what_the_cameras_see(rendered):
    renders, _, _ = rendered
    assert renders.albedo.shape == (2, 6, 16, 16, 3) and renders.albedo.dtype == np.uint8
    assert renders.normal.shape == (2, 6, 16, 16, 3) and renders.alpha.shape == (2, 6, 16, 16)
    assert renders.views == 6 and renders.azimuth.dtype == np.float32
    front = int(np.argmin(np.abs((renders.azimuth[0] + 180) % 360 - 180)))
    middle = (0, front, 9, 8)
    assert renders.alpha[middle] == 255
    np.testing.assert_array_equal(renders.albedo[middle], (255, 0, 0))
    np.testing.assert_array_equal(renders.normal[middle], (128, 128, 255))
    assert not renders.albedo[renders.alpha == 0].any() and not renders.normal[renders.alpha == 0].any()


def test_items_have_creator_licence_and_source(rendered):
    renders, output, _ = rendered
    subject = renders.items[0]
    assert (subject.creator, subject.license, subject.source) == ("Nobody", "CC0 © nobody", "test.sh3f")
    assert json.loads((output / "items.json").read_text())[0]["tags"] == ["test", "box"]
    assert [path.name for path in output.parent.iterdir()] == ["set"]


def test_views_depend_on_seed_and_model_alone(rendered, library):
    renders, _, _ = rendered
    items = read_catalog(library)
    again = renders_module._render_model(items[2], views=6, resolution=16, seed=0)
    np.testing.assert_array_equal(again["albedo"], renders.albedo[1])
    np.testing.assert_array_equal(again["azimuth"], renders.azimuth[1])
    other = renders_module._render_model(items[2], views=6, resolution=16, seed=1)
    assert (other["azimuth"] != renders.azimuth[1]).all()


def test_views_are_stratified_and_so_are_subsets():
    cameras = stratified_cameras(96, 64, np.random.default_rng(0))
    assert sorted((cameras.azimuth.numpy() // 3.75).tolist()) == list(range(96))
    assert len(set((cameras.azimuth[-8:].numpy() // 90).tolist())) >= 3
    assert cameras.elevation.min() >= -15 and cameras.elevation.max() <= 75
    assert cameras.distance.min() >= 2.7 and cameras.distance.max() <= 3.3


def test_cameras_look_at_the_origin_with_y_up():
    cameras = stratified_cameras(16, 64, np.random.default_rng(1))
    right, up, back, position = cameras.camera_to_world.numpy().transpose(2, 0, 1)
    np.testing.assert_allclose(position, back * cameras.distance.numpy()[:, None], rtol=1e-5)
    np.testing.assert_allclose(np.cross(right, up), back, atol=1e-6)
    np.testing.assert_allclose(right[:, 1], 0, atol=1e-7)
    assert (up[:, 1] > 0).all()


def test_only_the_models_of_the_given_names_are_rendered_and_keep_their_numbers(tmp_path):
    items = "".join(entry(number, "Box", "/m/box.obj") for number in (1, 2)) + entry(3, "Drum", "/m/box.obj")
    files = {"m/box.obj": OBJ.encode(), "m/box.mtl": MTL.encode()}
    library = write_library(tmp_path / "test.sh3f", items, files)
    names = {"box 2": "crate", "drum": "drum"}
    renders = render_libraries([library], tmp_path / "set", views=1, resolution=8, workers=1, names=names)
    assert [item.title for item in renders.items] == ["box 2", "drum"]
    assert select_models(renders.items, names) == {0: "crate", 1: "drum"}


def test_an_existing_or_impossible_output_is_a_clear_error(library, tmp_path):
    with pytest.raises(FileExistsError, match="exists; remove it or render into another folder"):
        render_libraries([library], tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write renders to .*file/set"):
        render_libraries([library], tmp_path / "file" / "set")
    with pytest.raises(ValueError, match="views is 0, it must be at least 1"):
        render_libraries([library], tmp_path / "set", views=0)


def test_no_renderable_model_is_an_error_and_leaves_no_files(tmp_path):
    library = write_library(tmp_path / "test.sh3f", entry(1, "Torn thing", "/t.obj"), {"t.obj": b""})
    with pytest.raises(ValueError, match=r"none of the 1 models of .*test.sh3f could be rendered"):
        render_libraries([library], tmp_path / "out" / "set", workers=1)
    assert not list((tmp_path / "out").iterdir())


def test_incomplete_and_inconsistent_sets_are_not_loaded(rendered, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is not a render set: items.json is missing"):
        RenderSet.load(tmp_path)
    _, output, _ = rendered
    for path in output.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for name, content in (("items.json", b"["), ("items.json", b'[{"tags": 3}]'), ("azimuth.npy", b"\x80\x04.")):
        before = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=r" is no render set: .*; remove it to render again"):
            RenderSet.load(tmp_path)
        (tmp_path / name).write_bytes(before)
    (tmp_path / "items.json").write_text("[]")
    with pytest.raises(ValueError, match=r"albedo.npy contains 2 models, items.json 0"):
        RenderSet.load(tmp_path)
