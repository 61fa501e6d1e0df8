"""The examples of docs/extending.md: classes and options from a user's own folder, as the page shows them."""

import csv
import importlib
import json
import re
import shlex
import sys
import textwrap

import numpy as np
import pytest
import torch
import trimesh
from hydra.errors import HydraException
from launched import QUICK, ROOT
from options import make_sds, option

import dreamfusion
from dreamfusion import untrusted
from dreamfusion.distillation.weighting import weight
from dreamfusion.error import UserError
from dreamfusion.guidance.prior import Prior
from dreamfusion.runs.results import read_result
from dreamfusion.types import Branch, Conditioning

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```(?:python|yaml)\n# (mine/\S+)\n(.*?)```", PAGE, re.DOTALL))
COMMANDS = [
    shlex.split(line)[2:] for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()
]
MINE = ("--config-dir", "mine")
GLOBE = (*MINE, "prompt=a ball", "scene=globe", "guidance=gaussian", "scene.size=8")
TRAINED = (*GLOBE, "+optimizer.learning_rates.texture=0.05", "system.lighting.textureless=0", *QUICK)
ROUGH = ("export.resolution=16", "export.texture=0", "export.threshold=5")
PARTS = {"field", "background", "renderer", "camera"}
AROUND = {"system", "scores", "callbacks", "logger", "mode"}
COLOR = (0.9, 0.4, 0.1)  # of the Gaussian prior's option file


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the page's files, importable as a user's package."""
    root = tmp_path_factory.mktemp("user")
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"# {name}\n{text}", encoding="utf-8")
    sys.path.insert(0, str(root))
    importlib.invalidate_caches()
    yield root
    sys.path.remove(str(root))
    for name in [name for name in sys.modules if name.split(".")[0] == "mine"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def ball(folder, launch):
    """The folder of a globe trained with the Gaussian prior."""
    ended = launch(folder, *TRAINED, "trainer.max_steps=150")
    assert ended.status == 0, ended.text
    (run,) = (folder / "outputs" / "train" / "a-ball").iterdir()
    return run


def make_prior():
    from mine.gaussian import GaussianPrior

    return GaussianPrior(COLOR, deviation=0.1)


def equator():
    """Unit normals (N, 3) around the equator, and 20 degrees above it."""
    longitude = torch.linspace(-3, 3, 32).repeat(2)
    latitude = torch.tensor([0.0, 0.35]).repeat_interleave(32)
    flat = latitude.cos()
    return torch.stack([longitude.sin() * flat, latitude.sin(), longitude.cos() * flat], dim=1)


def test_the_page_adds_each_kind_of_class_in_under_40_lines():
    classes = {name for name in FILES if name.endswith(".py")}
    assert classes == {f"mine/{name}.py" for name in ("asd", "gaussian", "globe", "parts", "even", "watch")}
    options = FILES.keys() - classes
    assert {name.split("/")[1] for name in options} == PARTS | {"distillation", "guidance", "scene", *AROUND}
    for name, text in FILES.items():
        lines = [line for line in text.splitlines() if line.strip()]
        assert len(lines) < (40 if name in classes else 12), name
        assert all(len(line) <= 120 for line in lines), name
        assert name in classes or lines[0].startswith("# Choose"), name


def test_the_commands_of_the_page_run(folder, launch):
    (folder / "commands").mkdir()
    (folder / "commands" / "mine").symlink_to(folder / "mine")
    for command in COMMANDS:
        trains = any(argument.startswith("prompt=") for argument in command)
        ended = launch(folder / "commands", *command, *(QUICK if trains else ROUGH))
        assert ended.status == 0, f"{command}\n{ended.text}"
    runs = list((folder / "commands" / "outputs" / "train").glob("*/*"))
    assert len(runs) == sum(any(word.startswith("prompt=") for word in command) for command in COMMANDS) == 5
    assert all((run / "mesh.glb").is_file() and (run / "turntable.mp4").is_file() for run in runs)
    (watched,) = (run for run in runs if (run / "lines.jsonl").is_file())
    assert (watched / "still.png").is_file()
    sharpness = read_result(watched).scores["sharpness"]
    assert sharpness == json.loads((watched / "summary.json").read_text())["sharpness"] > 0
    with (watched / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["sharpness"] for row in rows if row["sharpness"]] == [str(sharpness)]


def test_asd_has_the_difference_of_two_timesteps_in_closed_form(folder, cameras_at, seeded):
    prior = make_prior()
    text, null = (prior.encode_text([word] * 2) for word in ("a cat", ""))
    conditioning = Conditioning(text, null, cameras_at([0.0, 90.0]))
    rgb = torch.rand(2, 3, 16, 16, generator=seeded()).requires_grad_()
    method = make_sds(prior, _target_="mine.asd.ASD", weighting="sigma2", shift=0.01)
    out = method(rgb, conditioning, 0.5, seeded())
    (gradient,) = torch.autograd.grad(out.loss, rgb)
    generator = seeded()
    torch.rand(2, generator=generator)  # the timesteps
    eps = torch.randn(rgb.shape, generator=generator)
    now, later = (prior.alphas_cumprod[out.timestep + shift][:, None, None, None] for shift in (0, 10))
    noisy = now.sqrt() * (2 * rgb.detach() - 1) + (1 - now).sqrt() * eps
    mean = (torch.tensor(COLOR) * 2 - 1).view(1, 3, 1, 1)
    at = [(1 - abar).sqrt() * (noisy - abar.sqrt() * mean) / (abar * 0.1**2 + 1 - abar) for abar in (now, later)]
    expected = 2 * weight("sigma2", now.flatten()) * (at[0] - at[1]) / 2  # latents = 2 rgb - 1; a mean over two views
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)
    assert out.denoised.shape == rgb.shape


def test_the_gaussian_prior_has_all_members_and_denoises_to_its_posterior_mean(folder, seeded):
    """E[x | z] = (alpha s^2 z + sigma^2 mean) / (alpha^2 s^2 + sigma^2)."""
    prior = make_prior()
    members = {*Prior.__annotations__, *(name for name, value in vars(Prior).items() if callable(value))}
    assert [name for name in members if not name.startswith("_") and not hasattr(prior, name)] == []
    noisy, timestep = torch.randn(2, 3, 4, 4, generator=seeded()), torch.tensor([200, 700])
    branches = [Branch(prior.encode_text([text] * 2)) for text in ("a cat", "")]
    abar = prior.alphas_cumprod[timestep][:, None, None, None]
    for clean, color in zip(prior.denoise(noisy, timestep, branches), (COLOR, (0.5, 0.5, 0.5)), strict=True):
        mean = (torch.tensor(color) * 2 - 1).view(1, 3, 1, 1)
        posterior = (abar.sqrt() * 0.01 * noisy + (1 - abar) * mean) / (abar * 0.01 + 1 - abar)
        torch.testing.assert_close(clean, posterior, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(prior.decode(prior.encode_image(noisy.sigmoid())), noisy.sigmoid())


def test_a_trained_globe_has_the_colours_of_the_prior_and_so_has_its_mesh(ball):
    from mine.globe import Globe

    state = torch.load(ball / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    globe = Globe(torch.nn.Identity(), 0.7, 8)
    before = (globe.color(equator()) - torch.tensor(COLOR)).abs().mean()
    globe.load_state_dict({name.removeprefix("scene."): value for name, value in state.items() if "texture" in name})
    after = (globe.color(equator()) - torch.tensor(COLOR)).abs().mean()
    assert after < before / 2
    mesh = trimesh.load(ball / "mesh.glb", force="mesh", process=False)
    assert mesh.is_watertight
    assert np.allclose(np.linalg.norm(mesh.vertices, axis=1), 0.7, atol=1e-5)
    assert mesh.volume > 0.99 * 4 / 3 * np.pi * 0.7**3  # positive: the faces look outwards
    assert (ball / "turntable.mp4").is_file()


def test_a_globe_looks_like_its_texture_from_every_side(folder, cameras_at):
    """The front of the texture's middle column; hit pixels have the sphere's depth, normal and colour."""
    from mine.globe import Globe

    from dreamfusion.scene.background.solid import ConstantBackground

    globe = Globe(ConstantBackground([0.0, 0.0, 1.0]), 0.7, 8)
    with torch.no_grad():
        globe.texture[:, 0, :, 8:] = 9.0  # east, seen from +x, is red
    out = globe.render(cameras_at([90.0, 270.0], height=17), with_normal=True)
    middle = (slice(None), slice(None), 8, 8)
    torch.testing.assert_close(out.rgb[middle], torch.tensor([[1.0, 0.5, 0.5], [0.5, 0.5, 0.5]]), rtol=0, atol=1e-3)
    torch.testing.assert_close(out.depth[middle], torch.full((2, 1), 2.3))
    torch.testing.assert_close(out.normal[middle], torch.tensor([[1.0, 0, 0], [-1, 0, 0]]), rtol=0, atol=1e-5)
    torch.testing.assert_close(out.rgb[:, :, 0, 0], torch.tensor([[0.0, 0, 1]] * 2))
    assert out.opacity[:, :, 0, 0].sum() == 0
    rows = globe.render(cameras_at([90.0, 270.0], height=17), rows=slice(4, 9))
    torch.testing.assert_close(rows.rgb, out.rgb[:, :, 4:9])


def test_a_run_with_own_classes_is_rendered_exported_and_resumed(ball, folder, launch):
    commands = [
        ("mode=export", "export=ply"),
        ("mode=render", "mode.pictures=[video,normal]", "mode.size=16", "mode.frames=2", "mode.stills=1"),
        ("trainer.max_steps=152",),
    ]
    for command in commands:
        ended = launch(folder, *MINE, f"checkpoint={ball}", *command)
        assert ended.status == 0, ended.text
    assert (ball / "mesh.ply").is_file()
    assert torch.load(ball / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 152


def test_without_the_users_folder_its_classes_are_not_imported(ball, folder, launch):
    ended = launch(folder, f"checkpoint={ball}", "mode=export")
    assert ended.status == 1
    assert "mine.globe.Globe" in ended.text


def test_a_mirrored_field_is_alike_on_both_sides_and_a_dolly_ends_where_the_orbit_is(folder, seeded):
    from mine.even import Dolly
    from mine.parts import Mirrored, Sky

    from dreamfusion.camera.orbit import Orbit

    field = option("field/hashgrid", _target_="mine.parts.Mirrored", levels=2, log2_table_size=8)
    assert isinstance(field, Mirrored)
    right, flip = 0.5 * torch.rand(20, 3, generator=seeded()), torch.tensor([-1.0, 1.0, 1.0])
    one, other = field(right, with_normal=True), field(right * flip, with_normal=True)
    torch.testing.assert_close(other.density, one.density)
    torch.testing.assert_close(other.albedo, one.albedo)
    torch.testing.assert_close(other.normal, one.normal * flip)
    torch.testing.assert_close(field.density(right * flip), one.density)
    dolly, orbit = option("camera/orbit", _target_="mine.even.Dolly", start=1.2), option("camera/orbit")
    assert isinstance(dolly, Dolly) and isinstance(dolly, Orbit)
    same, far = (dolly.sample(progress, seeded()).distance for progress in (1.0, 0.0))
    torch.testing.assert_close(same, orbit.sample(1.0, seeded()).distance)
    torch.testing.assert_close(far, 1.2 * same)
    sky = Sky()
    with torch.no_grad():
        sky.colors[1] = 9.0  # above: white
    up = torch.tensor([[0.0, 1, 0], [0, -1, 0]])
    torch.testing.assert_close(sky(up, 1, None).mean(dim=1), torch.tensor([1.0, 0.5]), rtol=0, atol=1e-3)


COUNT = """
import lightning as L


class Count(L.Callback):
    steps = 0

    def on_train_batch_end(self, *_):
        self.steps += 1

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]
"""


def test_a_checkpoint_has_the_state_of_own_callbacks_after_its_step(folder, launch):
    (folder / "mine" / "count.py").write_text(COUNT)
    (folder / "mine" / "callbacks" / "count.yaml").write_text("count:\n  _target_: mine.count.Count\n")
    few = ("callbacks=count", "trainer.max_steps=3", "mode.checkpoint_every=2", "hydra.run.dir=counted")
    ended = launch(folder, *MINE, "prompt=a cat", "guidance=gaussian", *QUICK, *few)
    assert ended.status == 0, ended.text
    for name, steps in (("previous", 2), ("last", 3)):
        saved = torch.load(folder / "counted" / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert saved["callbacks"]["Count"] == {"steps": saved["global_step"]} == {"steps": steps}


def test_an_option_in_a_subfolder_adds_a_regulariser_to_any_system(folder, launch):
    text = FILES["mine/system/even.yaml"].partition("regularizer:\n")[2]
    (folder / "mine" / "system" / "regularizer").mkdir()
    (folder / "mine" / "system" / "regularizer" / "even.yaml").write_text(textwrap.dedent(text))
    few = ("+system/regularizer=even", "system.regularizer.unevenness=0.3", "hydra.run.dir=evened")
    ended = launch(folder, *MINE, "prompt=a cat", "guidance=gaussian", *QUICK, *few, "trainer.log_every_n_steps=1")
    assert ended.status == 0, ended.text
    assert "loss/unevenness" in (folder / "evened" / "metrics.csv").read_text()
    again = launch(folder, *MINE, "checkpoint=evened", "trainer.max_steps=3")
    assert again.status == 0, again.text


@pytest.fixture
def untrusting():
    """Python trusts no folder before and after a test."""
    yield
    untrusted.TRUSTED.clear()


@pytest.mark.filterwarnings("ignore")  # of Lightning's own, with its usual callbacks
def test_the_loop_of_ones_own_trains_and_its_scene_is_read(folder, monkeypatch, untrusting):
    code = re.search(r"### From Python.*?```python\n(.*?)```", PAGE, re.DOTALL)[1]
    monkeypatch.chdir(folder)
    short = '"trainer.max_steps=2", "guidance=gaussian", "experiment=smoke"'
    scope = {}
    exec(code.replace('"trainer.max_steps=100"', short), scope)
    assert scope["trained"].step == 2
    assert scope["picture"].shape == (1, 3, 256, 256)
    assert type(scope["system"].distillation).__name__ == "ASD"


def test_a_dream_from_python_has_options_of_ones_own(folder, monkeypatch, untrusting):
    monkeypatch.chdir(folder)
    settings = ("guidance=gaussian", "scores=watch", *QUICK)
    with pytest.raises(HydraException, match=r"Could not find '\w+/(gaussian|watch)'"):
        dreamfusion.dream("a cat", *settings)
    with pytest.raises(UserError, match="no folder elsewhere; config_dir"):
        dreamfusion.dream("a cat", *settings, config_dir="elsewhere")
    run = dreamfusion.dream("a cat", *settings, folder="dreamt", config_dir=["mine"])
    assert run.scores["sharpness"] > 0
    untrusted.TRUSTED.clear()
    with pytest.raises(UserError, match=r"mine\.watch\.sharpness at scores\.sharpness; no _target_ is allowed there"):
        dreamfusion.load_scene(run)
    assert dreamfusion.load_scene(run, "mine").step == 2
