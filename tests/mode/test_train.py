"""`mode=train`: the files of a run, resuming it, and error messages."""

import csv
import html
import json
import shutil

import pytest
import torch
from launched import PROMPT, files
from omegaconf import OmegaConf
from options import export_settings

from dreamfusion.checkpoint import load_scene
from dreamfusion.runs.finish import finish


def steps_in(path):
    with path.open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def test_a_run_writes_its_files_in_the_prompts_folder_and_nothing_elsewhere(finished):
    made = files(finished.run)
    assert made == {
        "checkpoints/last.ckpt",
        "config.yaml",
        "index.html",
        "mesh.glb",
        "mesh_check.png",
        "metrics.csv",
        "previews/000001.png",
        "previews/000002.png",
        "result.json",
        "run.json",
        "summary.json",
        "turntable.mp4",
    }
    run = finished.run.relative_to(finished.folder).as_posix()
    assert files(finished.folder) == {f"{run}/{name}" for name in made}


def test_the_page_escapes_the_prompt(finished):
    page = (finished.run / "index.html").read_text(encoding="utf-8")
    assert PROMPT in html.unescape(page)
    assert "<b>x</b>" not in page


def test_the_settings_of_a_run_can_be_loaded(finished):
    settings = OmegaConf.load(finished.run / "config.yaml")
    assert settings.prompt == PROMPT
    content = torch.load(finished.run / "checkpoints" / "last.ckpt", weights_only=True)
    assert OmegaConf.create(content["config"]) == settings


def test_every_step_has_a_row(finished):
    assert steps_in(finished.run / "metrics.csv") == [0, 1, 2]


def test_the_last_row_has_the_scores(finished):
    with (finished.run / "metrics.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    scores = json.loads((finished.run / "result.json").read_text())["scores"]
    assert scores.keys() == {"prior_score", "silhouette_iou", "color_difference"}
    for name, score in scores.items():
        assert float(last[name]) == score
    assert 0 < float(last["threshold_iou"]) <= 1


def test_the_console_prints_each_message_once_and_ends_with_the_files(finished):
    lines = [line for line in finished.text.splitlines() if line.strip()]
    assert len(set(lines)) == len(lines)
    assert any(line.startswith("2/2 ") and "gradient norm" in line and "opacity" in line for line in lines)
    assert not any(noise in finished.text for noise in ("Tip:", "Traceback", "Warning", "deprecated", "Epoch"))
    run = finished.run.relative_to(finished.folder)
    assert [line.strip() for line in lines[-4:]] == [
        str(run / name) for name in ("mesh.glb", "turntable.mp4", "index.html", "")
    ]
    assert lines[-5].startswith(f"{PROMPT}: 2 steps")


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of a finished run."""
    shutil.copytree(finished.folder, tmp_path / "copy")
    return tmp_path / "copy", tmp_path / "copy" / finished.run.relative_to(finished.folder)


def test_a_run_resumes_from_its_checkpoint_with_its_own_settings(copied, launch):
    folder, run = copied
    before = files(folder)
    ended = launch(folder, f"checkpoint={run.relative_to(folder)}", "trainer.max_steps=3")
    assert ended.status == 0, ended.text
    assert steps_in(run / "metrics.csv") == [0, 1, 2, 3]
    new = {path.split("/", 4)[4] for path in files(folder) - before}
    assert new == {"checkpoints/previous.ckpt", "previews/000003.png"}
    settings = OmegaConf.load(run / "config.yaml")
    assert (settings.prompt, settings.camera.size, settings.trainer.max_steps) == (PROMPT, 16, 3)
    assert f"{PROMPT}: 3 steps" in ended.text
    assert "trainer.max_steps was 2 and is 3" in ended.text and "goes from 100 % to 67 %" in ended.text
    first, second = json.loads((run / "run.json").read_text(encoding="utf-8"))["sessions"]
    assert first["command"][0].endswith("launch.py") and first["command"][1].startswith("prompt=")
    assert second["command"][1:] == [f'checkpoint="{run.relative_to(folder)}"', "trainer.max_steps=3"]


def test_resuming_a_finished_run_only_writes_its_summary_again(copied, launch):
    folder, run = copied
    (run / "mesh.glb").unlink()
    ended = launch(folder, "checkpoint=latest", "mode=train")
    assert ended.status == 0, ended.text
    assert "is already at step 2; to continue training, add trainer.max_steps=4" in ended.text
    (run / "result.json").unlink()
    ended = launch(folder, "checkpoint=latest", "trainer.max_steps=1")
    assert "step 2, beyond trainer.max_steps=1: nothing is trained; to continue training, type trainer" in ended.text
    assert (run / "mesh.glb").is_file()
    assert steps_in(run / "metrics.csv") == [0, 1, 2]
    assert OmegaConf.load(run / "config.yaml").mode.turntable_frames == 2  # unchanged by the resumed command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], 'there is no prompt; type prompt="a cat"'),
        (["prompt="], 'there is no prompt; type prompt="a cat"'),
        (["prompt=   "], 'there is no prompt; type prompt="a cat"'),
        ([f"prompt={'x' * 2001}"], "the prompt has 2001 characters; at most 2000 are allowed"),
        (["prompt=\udcff"], "the prompt is not valid UTF-8"),
        (["prompt=a cat", "seed=-1"], "seed is -1; it must be a whole number from 0 to 4294967295"),
        (["prompt=a cat", "trainer.max_steps=0"], "trainer.max_steps is 0; it must be a whole number of at least 1"),
        (["prompt=a cat", "camera.views=0"], "camera.views is 0"),
        (
            ["prompt=a cat", "camera.size=large"],
            "camera.size is large; it must be a number or a list of lists:",
        ),
        (["prompt=a cat", "camera.size=0"], "camera.size is 0; a view needs at least 1 pixel"),
        (["prompt=a cat", "optimizer.learning_rates.table=-1"], "optimizer.learning_rates.table is -1"),
        (["prompt=a cat", "system.lighting.lit=x"], "system.lighting.lit is x; it must be a number: type system."),
        (["prompt=a cat", "resume=perhaps"], "resume is perhaps; it must be true or false: type resume=true"),
        (["prompt=a cat", "distillation.min_timestep=2"], "the timestep range at progress 0.0 is [2.0, 0.98]"),
        (["prompt=a cat", "field.radius=0"], "field.radius is 0"),
        (
            ["prompt=a cat", "mode.preview_every=-1"],
            "mode.preview_every is -1; it must be a number of steps, or 0 for never",
        ),
        (["prompt=a cat", "experiment=foo"], "there is no option experiment=foo"),
        (["prompt=a cat", "camera.distance=[3,2]"], "camera.distance is [3, 2]"),
        (["prompt=a cat", "trainer.accelerator=abacus"], "abacus"),
        (["prompt=a cat", "distillation.weighting=heavy"], "unknown weighting 'heavy'; type distillation.weighting="),
        (
            ["prompt=a cat", "mode.turntable_frames=0"],
            "mode.turntable_frames is 0; it must be a whole number of at least 1",
        ),
        (["prompt=a cat", "export.format=fbx"], "export.format is fbx; the formats are glb, obj, ply, stl, usdz"),
        (["prompt=a cat", "renderer.steps=0"], "renderer.steps is 0; a ray needs at least 1"),
        (["prompt=a cat", "guidance.weights=nowhere"], "nowhere"),
        (["prompt=a cat", "+system.foo=1"], "unexpected keyword argument 'foo'"),
        (["prompt=a cat", "~mode.preview_every"], "mode=train missing a required argument: 'preview_every'"),
        (["prompt=a cat", "checkpoint=nowhere"], "no checkpoint at nowhere; type checkpoint=latest"),
        (["checkpoint=latest"], "no run under outputs/train has a checkpoint yet"),
        (["mode=export"], "no run under outputs/train has a checkpoint yet"),
        (["mode=render"], "no run under outputs/train has a checkpoint yet"),
        (["prompt=a cat", "seed=1", "dog"], "cannot read 'dog': settings are key=value"),
        (["seed"], "seed is a setting; type seed=VALUE"),
        (["sed=1"], "there is no setting sed; did you mean seed? Type seed=1"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)
def test_bad_input_gives_one_line_and_writes_nothing(arguments, message, launch, tmp_path):
    ended = launch(tmp_path, *arguments)
    errors = [line for line in ended.text.splitlines() if line.startswith("error: ")]
    assert ended.status == 1
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in ended.text
    assert files(tmp_path) == set()
    assert not list(tmp_path.glob("outputs/*/*"))


@pytest.mark.parametrize("option", ["mode=foo", "guidance=foo", "export=foo"])
def test_an_unknown_option_lists_the_known_ones(option, launch, tmp_path):
    ended = launch(tmp_path, option)
    group = option.removesuffix("=foo")
    assert ended.status == 1
    assert ended.text.startswith("error: ")
    assert f"there is no option {option}; type {group}=NAME, one of " in ended.text
    assert "Traceback" not in ended.text


def take_too_much(*arguments, **settings):
    return torch.empty(2**60)


def take_too_much_in_python(*arguments, **settings):
    raise MemoryError


@pytest.mark.parametrize("place", ["runs.dream.assemble", "scene.nerf.hashgrid.HashGridField.__init__"])
@pytest.mark.parametrize("take", [take_too_much, take_too_much_in_python])
def test_too_little_memory_gives_one_line_with_the_settings_to_lower(place, take, launch, tmp_path, monkeypatch):
    monkeypatch.setattr(f"dreamfusion.{place}", take)
    ended = launch(tmp_path, "prompt=a cat")
    assert (ended.status, ended.text.count("\n")) == (1, 1)
    assert ended.text.startswith("error: there is not enough memory; lower camera.size")
    assert not list(tmp_path.glob("outputs/*/*"))


def test_a_broken_checkpoint_gives_one_line_and_is_left_unchanged(copied, launch):
    folder, run = copied
    checkpoint = run / "checkpoints" / "last.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:5000])
    for arguments in (["checkpoint=latest"], ["mode=export"], ["mode=render"]):
        ended = launch(folder, *arguments)
        assert (ended.status, ended.text.count("\n")) == (1, 1)
        assert ended.text.startswith("error: outputs/train/")
        assert "is the file complete?" in ended.text
    assert checkpoint.stat().st_size == 5000


def test_an_unwritable_folder_gives_one_line(launch, tmp_path):
    (tmp_path / "outputs").write_text("a file where the folder should be")
    ended = launch(tmp_path, "prompt=a cat", "experiment=smoke")
    assert (ended.status, ended.text.count("\n")) == (1, 1)
    assert ended.text.startswith("error: cannot use ")
    assert "outputs" in ended.text


def test_the_mesh_is_written_before_the_score_which_ends_no_run(finished, tmp_path, caplog):
    run = tmp_path / "run"
    shutil.copytree(finished.run, run)
    (run / "mesh.glb").unlink()

    def score():
        assert (run / "mesh.glb").is_file()
        raise torch.OutOfMemoryError("out of memory")

    figures = finish(
        load_scene(run / "checkpoints" / "last.ckpt"), export_settings(resolution=24, texture=0), 2, 32, 1.0, score
    )
    assert figures["triangles"] > 100
    assert "prior_score" not in figures
    assert "no prior score: OutOfMemoryError: out of memory; the results" in caplog.text
    assert "prior score" not in (run / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "optimizer.optimizer._target_=torch.optim.SGD",
            "names torch.optim.SGD at optimizer.optimizer; allowed there: ",
        ),
        ("camera.up_std=${oc.decode:'0.1'}", "camera.up_std is ${oc.decode:'0.1'}; a checkpoint with it is not read"),
        ("+refine.scene._target_=os.system", "names os.system at scene; allowed there: "),
        (
            "+camera._args_=[1]",
            "a checkpoint of this run would not be read: the command has positional arguments, _args_",
        ),
    ],
)
def test_settings_whose_checkpoint_would_be_refused_are_refused_before_the_run(override, said, launch, tmp_path):
    ended = launch(tmp_path, "prompt=a cat", "experiment=smoke", override)
    assert ended.status == 1 and said in ended.text, ended.text
    assert not list(tmp_path.rglob("*.ckpt"))
