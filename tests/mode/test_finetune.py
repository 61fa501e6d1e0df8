"""Objects of one's own: from a folder of GLB files to a scene of one of them, by the commands of the README."""

import pytest
import trimesh
from launched import QUICK

SHORT = (
    "mode.max_steps=2", "mode.module.proxy_steps=1", "mode.validation_every=2", "mode.views=8", "mode.batch_size=8",
    "mode.fine.batch_size=8", "mode.validation_size=2", "mode.fine.validation_size=1", "mode.precision=32-true",
)  # fmt: skip
CALM = pytest.mark.filterwarnings("ignore")


@CALM
def test_objects_of_ones_own_are_learned_and_become_scenes(launch, tmp_path):
    (tmp_path / "data" / "own").mkdir(parents=True)
    trimesh.creation.box((1, 2, 1)).export(tmp_path / "data" / "own" / "gizmo.glb")
    trimesh.creation.icosphere(2).export(tmp_path / "data" / "own" / "whatsit.glb")
    ended = launch(tmp_path, "mode=finetune", *SHORT)
    assert ended.status == 0, ended.text
    assert "0 of 2 models have a trained code" in ended.text
    own = "'prompt=a gizmo' guidance.weights=outputs/finetune/weights"
    assert f"the weights are in outputs/finetune/weights; type {own}" in ended.text
    weights = tmp_path / "outputs" / "finetune" / "weights"
    assert (weights / "vocabulary.txt").read_text().split() == ["gizmo", "whatsit"]
    card = (weights / "README.md").read_text()
    assert "license: other" in card and "2 models under 2 names from own (ATTRIBUTION.md)" in card
    credits = (weights / "ATTRIBUTION.md").read_text()
    assert "author not named: gizmo, whatsit" in credits and "BlendSwap-CC-0.sh3f" in credits.partition("began from")[2]
    assert "began\n  from other weights" in card
    ended = launch(tmp_path, "prompt=a red gizmo", "guidance.weights=outputs/finetune/weights", *QUICK)
    assert ended.status == 0, ended.text
    assert "the pocket prior reads a red gizmo" in ended.text


@CALM
def test_a_library_that_has_changed_since_is_not_resumed_without_a_word(launch, tmp_path):
    (tmp_path / "data" / "own").mkdir(parents=True)
    trimesh.creation.box((1, 2, 1)).export(tmp_path / "data" / "own" / "gizmo.glb")
    small = ["mode.module.proxy_widths.voxels=16", "mode.module.proxy_widths.rays=8", "mode.module.proxy_widths.code=2"]
    assert launch(tmp_path, "mode=finetune", *SHORT, *small).status == 0
    trimesh.creation.icosphere(2).export(tmp_path / "data" / "own" / "whatsit.glb")
    ended = launch(tmp_path, "mode=finetune", *SHORT, *small, "mode.max_steps=3")
    assert ended.status == 0, ended.text
    lack = "the renders in outputs/finetune/renders lack 1 of 2 models of the libraries, such as whatsit; remove"
    assert lack in ended.text
    ended = launch(tmp_path, "mode=finetune", *SHORT, *small, "mode.max_steps=4", "mode.renders=outputs/other")
    assert ended.status == 1
    assert "last.ckpt is of other models than the renders (1 and 2; whatsit differs); name another" in ended.text
    assert "Traceback" not in ended.text
