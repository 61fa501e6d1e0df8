"""Experiments with published numbers, run whole with a tiny Stable Diffusion."""

import pytest
from pipelines import save_sd

from dreamfusion.checkpoint import load_scene
from dreamfusion.scene.mesh.scene import MeshScene

TINY = ["prompt=a cat", "mode.preview_every=0", "mode.turntable_frames=1", "mode.turntable_size=16"]
TINY += ["mode.score_views=1", "export.texture=0", "export.resolution=16", "export.threshold=1.0", "watchdog=none"]
TINY += ["field.levels=2", "field.log2_table_size=8", "field.hidden=16", "renderer.steps=24"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return f"guidance.model={save_sd(tmp_path_factory.mktemp('sd'))}"


def test_prolificdreamer_trains_to_its_finest_pictures(model, launch, tmp_path):
    changes = ["trainer.max_steps=5", "camera.size=[[0,8],[0.2,8],[0.2,16]]"]
    ended = launch(tmp_path, "experiment=prolificdreamer", model, *TINY, *changes)
    assert ended.status == 0, ended.text
    (run,) = tmp_path.glob("outputs/train/a-cat/*")
    assert load_scene(run / "checkpoints" / "last.ckpt").step == 5
    assert (run / "mesh.glb").is_file()


def test_magic3d_trains_both_stages(model, launch, tmp_path):
    changes = ["trainer.max_steps=2", "camera.size=16", "refine.trainer.max_steps=2", "refine.camera.size=16"]
    ended = launch(tmp_path, "experiment=magic3d", model, *TINY, *changes, "refine.scene.resolution=12")
    assert ended.status == 0, ended.text
    (run,) = tmp_path.glob("outputs/train/a-cat/*")
    second = load_scene(run / "refined" / "checkpoints" / "last.ckpt")
    assert isinstance(second.scene, MeshScene) and second.step == 2
    assert (run / "refined" / "mesh.glb").is_file() and (run / "refine.html").is_file()
