"""The Python API: what it composes and makes is what the command line composes and makes."""

from pathlib import Path

import nbformat
import pytest
import torch
import trimesh
from launched import PROMPT, QUICK, ROOT, SLUG
from nbclient import NotebookClient
from omegaconf import OmegaConf
from results import CAT, with_settings

import dreamfusion
from dreamfusion.error import UserError
from dreamfusion.runs.results import read_result, write_result


def test_compose_is_the_command_lines_composition(compose_config):
    overrides = ["guidance=sd", "camera.views=4", f"prompt={PROMPT}"]
    assert dreamfusion.compose(overrides) == compose_config(*overrides)
    assert dreamfusion.compose() == compose_config()


def test_a_dream_from_python_is_the_run_of_the_command(tmp_path, monkeypatch, compose_config):
    monkeypatch.chdir(tmp_path)
    run = dreamfusion.dream(PROMPT, *QUICK, "seed=5", steps=3)
    assert run.folder.parent == Path("outputs/train") / SLUG
    assert isinstance(trimesh.load(run.mesh, force="mesh"), trimesh.Trimesh)
    assert run.turntable.is_file()
    assert "<html" in run.page.read_text()
    assert run.scores["steps"] == 3
    assert 0 <= run.scores["silhouette_iou"] <= 1
    assert run.settings["seed"] == 5
    assert run._repr_html_().startswith('<video src="data:video/mp4;base64,')
    saved = torch.load(run.folder / "checkpoints" / "last.ckpt", weights_only=True)["config"]
    wanted = compose_config(f"prompt={PROMPT}", "seed=5", "trainer.max_steps=3", *QUICK)
    assert saved == OmegaConf.to_container(wanted)


def test_settings_that_no_run_can_have_are_named(tmp_path):
    with pytest.raises(UserError, match='there is no prompt; type prompt="a cat"'):
        dreamfusion.dream("  ", folder=tmp_path)
    with pytest.raises(UserError, match=r"camera\.views is 0; a step needs at least 1 camera"):
        dreamfusion.dream("a cat", "camera.views=0", *QUICK, folder=tmp_path)
    with pytest.raises(UserError, match=r"checkpoint belongs to the command line; dream makes a new run"):
        dreamfusion.dream("a cat", "checkpoint=latest", *QUICK, folder=tmp_path)
    with pytest.raises(AttributeError, match="module 'dreamfusion' has no attribute 'nothing'"):
        dreamfusion.nothing  # noqa: B018


def test_a_run_in_the_folder_is_not_replaced_unless_it_is_given_up(tmp_path):
    write_result(CAT, tmp_path)
    with pytest.raises(UserError, match=r"there is a run in .* already \(result\.json\).* resume=false to replace it"):
        dreamfusion.dream("a dog", *QUICK, folder=tmp_path)
    assert read_result(tmp_path).prompt == "a cat"


@pytest.mark.parametrize(
    "form, name", [("glb", "mesh.glb"), ("obj", "mesh.obj"), ("splat", "mesh.glb"), ("urdf", "robot.obj")]
)
def test_the_mesh_of_a_run_is_the_one_of_its_format(tmp_path, form, name):
    write_result(with_settings(export__format=form), tmp_path)
    run = dreamfusion.api.Run(tmp_path)
    assert run.mesh is None
    for other in ("mesh.glb", "mesh.obj", "mesh.mtl", "mesh.lod1.obj", "mesh.part00.stl", "robot.obj"):
        (tmp_path / other).touch()
    assert run.mesh == tmp_path / name


@pytest.mark.filterwarnings("ignore")  # of the notebook's own machinery
def test_the_notebook_runs_and_shows_a_training_and_a_mesh(tmp_path):
    notebook = nbformat.read(ROOT / "docs" / "first_steps.ipynb", as_version=4)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert first.source.startswith("steps, overrides = 300, []")
    first.source = f"steps, overrides = 4, {list(QUICK)}\nimport torch\ntorch.set_num_threads(1)"
    NotebookClient(notebook, timeout=1500, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    assert not [output for output in shown if output.output_type == "error"]
    assert sum("image/png" in output.data for output in shown) >= 2  # the live figure, and the mesh
    assert any("<video" in output.data.get("text/html", "") for output in shown)
    assert any("<iframe" in output.data.get("text/html", "") for output in shown)


def test_a_second_stage_is_trained_from_python_too(tmp_path, monkeypatch):
    stages = []
    monkeypatch.setattr(
        "dreamfusion.runs.dream.dream", lambda cfg, folder, *_, **__: write_result(CAT, folder) or folder
    )
    monkeypatch.setattr("dreamfusion.runs.refine.find_checkpoint", Path)
    monkeypatch.setattr("dreamfusion.runs.refine.run_in_study", lambda cfg, folder, outputs: stages.append(folder))
    monkeypatch.setattr("dreamfusion.runs.refine.compare", lambda folder: None)
    run = dreamfusion.dream("a cat", "experiment=refine", folder=tmp_path)
    assert stages == [run.folder / "refined"]
