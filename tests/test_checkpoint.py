"""Loading scenes from files, and the messages for files that are refused."""

import os
import zipfile

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from dreamfusion.checkpoint import load_scene, read_checkpoint
from dreamfusion.error import CheckpointError
from dreamfusion.paths import run_of
from dreamfusion.runs.find import find_checkpoint
from dreamfusion.scene.background.solid import ConstantBackground

# fmt: off
FIELD = {
    "_target_": "dreamfusion.scene.nerf.hashgrid.HashGridField",
    "radius": 1.0, "levels": 3, "features": 2, "log2_table_size": 9, "base_resolution": 4, "max_resolution": 16,
    "hidden": 8, "blob_density": 5.0, "blob_radius": 0.5, "density_scale": 1.0, "precision": "auto", "open_levels": 1.0,
}
CONFIG = {
    "prompt": "a cat",
    "field": FIELD,
    "background": {"_target_": "dreamfusion.scene.background.solid.ConstantBackground", "color": [1.0, 0.5, 0.0]},
    "renderer": {
        "_target_": "dreamfusion.scene.nerf.occupancy.OccupancyRenderer",
        "radius": "${field.radius}", "resolution": 8, "steps": 16, "threshold": 0.01, "decay": 0.9,
        "update_every": 2, "warmup": 4,
    },
    "scene": {
        "_target_": "dreamfusion.scene.nerf.scene.NeRF",
        "field": "${field}", "background": "${background}", "renderer": "${renderer}",
    },
    "camera": {
        "_target_": "dreamfusion.camera.orbit.Orbit",
        "elevation": [-15, 75], "distance": [2.7, 3.3], "focal": [1.3, 1.4], "uniform_area": 0.0,
        "position_jitter": 0.0, "look_at_std": 0.0, "up_std": 0.0, "light_distance": [1, 2],
        "relative_distance": False, "views": 2, "group": 1, "size": 8,
    },
}
# fmt: on


@pytest.fixture
def content(tiny_field):
    """Content of a checkpoint as Lightning writes it."""
    renderer = instantiate(OmegaConf.create(CONFIG).renderer)
    renderer.grid.binaries[0, 0, 0, 0] = False
    parts = {"field": tiny_field(strong=True), "background": ConstantBackground([0.0, 0.0, 1.0]), "renderer": renderer}
    state = {f"scene.{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    return {"config": CONFIG, "state_dict": state, "global_step": 42}


@pytest.fixture
def save(tmp_path):
    def write(content, path="run/checkpoints/last.ckpt"):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, file)
        return file

    return write


def test_a_scene_of_another_processor_s_precision_is_read(content, save, monkeypatch):
    monkeypatch.setattr("dreamfusion.ops.precision.processor_bfloat16", lambda: False)
    scene = load_scene(save(content | {"config": CONFIG | {"field": FIELD | {"precision": "bfloat16"}}}))
    assert (scene.scene.field.precision, scene.config.field.precision) == ("float32", "bfloat16")


def test_a_scene_is_rebuilt_from_its_checkpoint(content, save, tiny_field, cameras_at, tmp_path):
    scene = load_scene(save(content))
    assert (scene.step, scene.config.prompt, scene.run) == (42, "a cat", tmp_path / "run")
    assert torch.equal(scene.scene.field.table, tiny_field(strong=True).table)
    assert not scene.scene.renderer.grid.binaries[0, 0, 0, 0]
    image = scene.scene.render(cameras_at([0.0]))
    torch.testing.assert_close(image.background, torch.tensor([[0.0, 0.0, 1.0]]))  # from the state
    assert not image.rgb.requires_grad
    assert scene.camera.distance == [2.7, 3.3]


def test_latest_is_the_most_recent_run_in_any_subfolder(tmp_path):
    for age, name in enumerate(["new", "old/deeper"]):
        path = tmp_path / name / "checkpoints" / "last.ckpt"
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (1e9 - age, 1e9 - age))
    assert find_checkpoint("latest", tmp_path) == tmp_path / "new" / "checkpoints" / "last.ckpt"


def test_a_run_is_found_by_its_folder_or_its_file(content, save, tmp_path, monkeypatch):
    path = save(content)
    assert find_checkpoint(str(tmp_path / "run")) == path
    assert find_checkpoint(str(path)) == path
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_checkpoint("~/run") == path


def test_the_run_is_the_parent_of_checkpoints_or_the_folder_of_a_single_file(tmp_path):
    assert run_of(tmp_path / "checkpoints" / "last.ckpt") == tmp_path
    assert run_of(tmp_path / "copy.ckpt") == tmp_path


@pytest.mark.parametrize(
    ("choice", "message"),
    [("latest", 'no run under .* has a checkpoint yet; type prompt="a cat"'), ("nowhere", "no checkpoint at nowhere")],
)
def test_a_missing_checkpoint_is_named(choice, message, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        find_checkpoint(choice, tmp_path)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "foreign zip"])
def test_a_broken_file_is_named(damage, content, save, tmp_path):
    path = save(content)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1000])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("hello")
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a", "b")
    with pytest.raises(
        CheckpointError, match=r"last.ckpt cannot be read as a checkpoint \(\w+\); is the file complete"
    ):
        read_checkpoint(path)


@pytest.mark.parametrize("other", [{"state_dict": {}}, [1, 2], {"config": 1, "state_dict": {}, "global_step": 0}])
def test_a_checkpoint_of_another_project_is_refused(other, save):
    with pytest.raises(CheckpointError, match="is not a checkpoint of a dreamfusion run"):
        read_checkpoint(save(other))


def test_a_checkpoint_with_objects_in_it_is_not_unpickled(content, save):
    class Payload:
        def __reduce__(self):
            return (print, ("owned",))

    with pytest.raises(CheckpointError, match="cannot be read"):
        read_checkpoint(save(content | {"payload": Payload()}))


@pytest.mark.parametrize(
    "change",
    [
        {"field": FIELD | {"hidden": 16}},  # a different shape
        {"field": FIELD | {"unheard_of": 1}},  # a removed argument
        {"field": {k: v for k, v in FIELD.items() if k != "levels"}},  # a new argument
    ],
)
def test_settings_of_another_version_give_a_one_line_error(change, content, save):
    with pytest.raises(CheckpointError, match="does not fit this version of dreamfusion: ") as error:
        load_scene(save(content | {"config": CONFIG | change}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("group", ["scene", "camera"])
@pytest.mark.parametrize("settings", [None, {}, [1], "cat", "${seed}", "${field.nothing}", 3])
def test_settings_that_are_no_scene_or_no_cameras_give_a_one_line_error(group, settings, content, save):
    with pytest.raises(CheckpointError, match="does not fit this version of dreamfusion: ") as error:
        load_scene(save(content | {"config": CONFIG | {group: settings}}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", [1, None, "scene.field", "scene.unheard_of"])
def test_a_state_of_other_names_gives_a_one_line_error(key, content, save):
    with pytest.raises(CheckpointError, match=r"does not fit|is not a checkpoint") as error:
        load_scene(save(content | {"state_dict": content["state_dict"] | {key: torch.zeros(1)}}))
    assert "\n" not in str(error.value)


def test_a_missing_group_of_settings_gives_a_one_line_error(content, save):
    config = {name: part for name, part in CONFIG.items() if name != "camera"}
    with pytest.raises(CheckpointError, match="does not fit this version"):
        load_scene(save(content | {"config": config}))
