"""Commands with `scene=gaussians`: colours that change with the direction, and runs from before there were any."""

import signal
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch
from options import export_settings, option
from pipelines import save_sd
from training import assert_same, state

from dreamfusion.checkpoint import load_scene, read_checkpoint, scene_state
from dreamfusion.export.settings import ExportSettings
from dreamfusion.mesh.density_grid import EmptyFieldError
from dreamfusion.runs.export import export_scene
from dreamfusion.runs.resume import load_weights, repeated_settings
from dreamfusion.runs.start import mesh_of
from dreamfusion.training.assemble import assemble
from dreamfusion.training.callbacks import Previews

SMALL = ["prompt=a cat", "scene=gaussians", "experiment=smoke", "trainer.max_steps=4", "mode.preview_every=0"]
SMALL += ["scene.count=60", "scene.most=100", "scene.growth.every=1", "export.texture=0", "export.resolution=16"]
SMALL += ["scene.growth.until=100"]


@pytest.fixture(scope="module")
def run(launch, tmp_path_factory):
    """The folder of a finished run of degree 1."""
    folder = tmp_path_factory.mktemp("degree")
    ended = launch(folder, *SMALL, "scene.degree=1", "export=splat")
    assert ended.status == 0, ended.text
    (found,) = folder.glob("outputs/train/a-cat/*")
    return found


def last(folder):
    return folder / "checkpoints" / "last.ckpt"


@pytest.fixture
def older(run, tmp_path):
    """A checkpoint as it was before there were degrees, with the Gaussians of the run."""
    content = read_checkpoint(last(run))
    del content["config"]["scene"]["degree"], content["config"]["optimizer"]["learning_rates"]["directional"]
    del content["state_dict"]["scene.directional"]
    path = last(tmp_path / "older")
    path.parent.mkdir(parents=True)
    torch.save(content, path)
    return path


def test_a_run_of_degree_1_learns_its_coefficients_and_resumes_bit_for_bit(run, launch, tmp_path, monkeypatch):
    def send(self, trainer, *arguments):
        if trainer.global_step == 1 and signals:
            signal.raise_signal(signals.pop())

    whole, signals = state(last(run)), [signal.SIGTERM]
    count = int(whole["state_dict"]["scene.count"])
    coefficients = whole["state_dict"]["scene.directional"]
    assert count == 100 and (coefficients[:60] != 0).any((1, 2)).all()
    assert (run / "splats.ply").read_bytes().count(b"property float f_rest_") == 9
    monkeypatch.setattr(Previews, "on_train_batch_end", send)
    assert launch(tmp_path, *SMALL, "scene.degree=1", "export=splat").status == 143
    (again,) = tmp_path.glob("outputs/train/a-cat/*")
    assert read_checkpoint(last(again))["global_step"] == 2
    ended = launch(tmp_path, "checkpoint=latest")
    assert ended.status == 0, ended.text
    resumed = state(last(again))
    assert resumed.pop("config") | {"checkpoint": None} == whole.pop("config")
    assert_same(resumed, whole)
    assert (again / "splats.ply").read_bytes() == (run / "splats.ply").read_bytes()


def test_a_checkpoint_without_a_degree_is_one_of_degree_0(older, run):
    scene, cameras = load_scene(older), option("camera/orbit").view(torch.tensor([30.0]), 15.0, 24, 24)
    assert scene.config.scene.degree == 0
    own = scene.scene.gaussians()
    assert own.directional is None
    assert torch.equal(own.colors, load_scene(last(run)).scene.gaussians().colors)
    assert scene.scene.render(cameras).rgb.isfinite().all()


def test_a_configuration_without_a_degree_is_repeated_with_degree_0(run, compose_config, tmp_path):
    lines = (run / "config.yaml").read_text().splitlines()
    (tmp_path / "config.yaml").write_text("\n".join(line for line in lines if line.strip() != "degree: 1"))
    cfg = compose_config(f"config={tmp_path / 'config.yaml'}")
    assert repeated_settings(cfg, []).scene.degree == 0


def test_a_start_of_degree_1_keeps_the_gaussians_of_degree_0(older, compose_config):
    cfg = compose_config(*SMALL, "scene.degree=1", f"start={older}")
    system = assemble(cfg)
    load_weights(system, cfg, None)
    found = dict(system.scene.state_dict())
    assert not found.pop("directional").any()
    assert_same(found, scene_state(read_checkpoint(older)))


def test_a_degree_that_does_not_exist_is_one_line_and_writes_nothing(launch, tmp_path):
    ended = launch(tmp_path, "prompt=a cat", "scene=gaussians", "scene.degree=2")
    (line,) = [line for line in ended.text.splitlines() if line.startswith("error: ")]
    assert (ended.status, "scene.degree is 2, allowed 0" in line, line.count("type scene.degree=1")) == (1, True, 1)
    assert "Traceback" not in ended.text and not list(tmp_path.glob("outputs/*/*"))


def test_dreamgaussians_recipe_trains_and_resumes_with_a_tiny_stable_diffusion(launch, tmp_path, monkeypatch):
    def send(self, trainer, *arguments):
        if trainer.global_step == 2 and signals:
            signal.raise_signal(signals.pop())

    model = save_sd(tmp_path / "sd")
    small = ["prompt=a cat", "experiment=dreamgaussian", f"guidance.model={model}", "trainer.max_steps=4"]
    small += ["camera.size=[[0,16],[0.5,16],[0.5,32]]", "scene.count=60", "scene.most=100", "scene.growth.every=1"]
    small += ["mode.preview_every=0", "mode.turntable_frames=1", "mode.turntable_size=16", "mode.score_views=1"]
    small += ["export.texture=0", "export.resolution=16", "watchdog=none"]
    monkeypatch.setattr(Previews, "on_train_batch_end", send)
    states, signals = [], []
    for interrupted in (False, True):
        signals += [signal.SIGTERM] * interrupted
        folder = tmp_path / str(interrupted)
        folder.mkdir()
        assert launch(folder, *small).status == 143 * interrupted
        if interrupted:
            assert launch(folder, "checkpoint=latest").status == 0
        (run,) = folder.glob("outputs/train/a-cat/*")
        states.append(state(last(run)))
    assert states[0]["global_step"] == 4
    assert_same(states[0]["state_dict"], states[1]["state_dict"])
    rates = [group["lr"] for group in states[0]["optimizer_states"][0]["param_groups"]]
    assert rates[0] == pytest.approx(0.0002)  # of positions, which fell; the others stay
    assert set(rates[1:]) <= {0.01, 0.05, 0.005, 0.003}


def test_splats_are_written_though_the_mesh_fails(run, monkeypatch):
    scene = load_scene(last(run))
    (run / "splats.ply").unlink(missing_ok=True)

    def refuse(*_):
        raise EmptyFieldError("too thin")

    monkeypatch.setattr("dreamfusion.runs.export.extract_surface", refuse)
    with pytest.raises(EmptyFieldError):
        export_scene(scene, export_settings(format="splat"))
    assert (run / "splats.ply").is_file()


@pytest.mark.parametrize("form", ["stl", "urdf"])
def test_the_format_of_the_file_does_not_change_the_surface_that_a_training_begins_from(
    form, compose_config, monkeypatch
):
    taken = []
    monkeypatch.setattr("dreamfusion.mesh.extract.extract_surface", lambda *given: taken.append(given[2]) or 1 / 0)
    for chosen in ("glb", form):
        with pytest.raises(ZeroDivisionError):
            mesh_of(
                SimpleNamespace(scene=None, camera=None), ExportSettings.of(compose_config(f"export={chosen}").export)
            )
    after = {"size", "up", "roughness", "double_sided"}  # of the file
    assert len({str({k: v for k, v in asdict(one).items() if k not in after}) for one in taken}) == 1
