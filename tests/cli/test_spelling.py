"""What people type in the first hour: it is understood, or the answer is one line with what to type instead."""

import sys

import pytest
from hydra.core.global_hydra import GlobalHydra

from dreamfusion.cli.arguments import understood
from dreamfusion.cli.command import run_command
from dreamfusion.cli.spelling import nearest, options_of, settings_of
from dreamfusion.error import UserError

CAT = "prompt=a cat"


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        (["promt=a cat"], 'there is no setting promt; did you mean prompt? Type prompt="a cat"'),
        (["Prompt=a cat"], 'did you mean prompt? Type prompt="a cat"'),
        (["--promt", "a cat"], 'did you mean prompt? Type prompt="a cat"'),
        ([CAT, "trainer.max_time=00:01:00:00"], 'Type +trainer.max_time="00:01:00:00"'),
        ([CAT, "trainer.max_step=8"], "did you mean trainer.max_steps? Type trainer.max_steps=8"),
        ([CAT, "max_steps=8"], "Type trainer.max_steps=8"),
        ([CAT, "train.max_steps=8"], "Type trainer.max_steps=8"),
        ([CAT, "steps=8"], "Type trainer.max_steps=8"),
        ([CAT, "sede=3"], "Type seed=3"),
        ([CAT, "camra=orbit"], "Type camera=orbit"),
        ([CAT, "guidance_scale=30"], "Type distillation.guidance_scale=30"),
        ([CAT, "negative_prompt=a dog"], 'Type prompting.negative="a dog"'),
        ([CAT, "guidance=SD"], "did you mean guidance=sd? Type guidance=NAME, one of clip, deepfloyd, "),
        ([CAT, "guidance.model=x"], "guidance.model is a setting of other options of guidance; add guidance=NAME, one"),
        ([CAT, "experiment=smok"], "did you mean experiment=smoke?"),
        ([CAT, "experiment=ablation/view"], "did you mean experiment=ablation/views?"),
        ([CAT, "experiment/ablation=base"], "there is no setting experiment/ablation; type experiment=ablation/base"),
        (["mode=exprt"], "did you mean mode=export?"),
        (["export"], "export is a mode; type mode=export"),
        (["mode=export", "export=OBJ"], "did you mean export=obj?"),
        (["mode=export", "export.textur=64"], "Type export.texture=64"),
        (["checkpiont=latest"], "Type checkpoint=latest"),
        (["prompt=a cat,a dog"], "prompt=a cat,a dog has a comma without a space; add -m for one run of each prompt"),
        ([CAT, "seed=0,1"], "seed=0,1 has several values; add -m for one run of each, or 'seed=[0,1]' for a list"),
        ([CAT, "guidance=sd,pocket"], "guidance=sd,pocket has several values; add -m for one run of each"),
        (["prompt:a cat"], 'prompt:a cat has a : where a setting has its =; type prompt="a cat"'),
        (["seed:3"], "seed:3 has a : where a setting has its =; type seed=3"),
        (["mode", "view"], "mode is a setting; type mode=view"),
        (["prompt", "a", "red", "cat", "seed=1"], 'prompt is a setting; type prompt="a red cat"'),
        (["prompts=prompts.txt"], "type prompts.file=prompts.txt"),
        (["--hepl"], "did you mean --help?"),
        (["--multirn", CAT, "seed=0,1"], "did you mean --multirun?"),
        ([CAT, "guidance=stable_diffusion"], "did you mean guidance=sd?"),
        (["mode=export", "export=gltf"], "did you mean export=glb?"),
        (["-cd", "sweep", "-cn", "ablation"], "there is no folder sweep; type -cd sweeps"),
        (["-cd", "sweeps", "-cn", "ablatoin"], "did you mean -cd sweeps -cn ablation?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistyping_is_answered_with_what_to_type(monkeypatch, tmp_path, typed, answer):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr(sys, "argv", ["launch.py", *typed])
    GlobalHydra.instance().clear()
    with pytest.raises(SystemExit) as end:
        run_command()
    assert str(end.value.code).startswith("error: ")
    assert answer in end.value.code
    assert "\n" not in end.value.code
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("typed", "means"),
    [
        (["a cat"], ["prompt=a cat"]),
        (["a", "cat", "seed=1"], ["prompt=a cat", "seed=1"]),
        (["prompt=a", "cat", "in", "a hat", "seed=1"], ["prompt=a cat in a hat", "seed=1"]),
        (["--prompt", "a cat", "--seed=1"], ["prompt=a cat", "seed=1"]),
        (["--trainer.max_steps", "8", CAT], ["trainer.max_steps=8", CAT]),
        ([CAT, "-m", "seed=0,1"], ["-m", CAT, "seed=0,1"]),
        (["prompt=a cat,a dog", "seed=0,1", "--multirun"], ["--multirun", "prompt=a cat,a dog", "seed=0,1"]),
        (["mode=view", "--cfg", "job", "-p", "mode"], ["--cfg", "job", "-p", "mode", "mode=view"]),
        (["--info", "mode=view"], ["--info", "mode=view"]),
        (["--info", "searchpath"], ["--info", "searchpath"]),
        (["--config-dir=my", "~mode", "+a=3"], ["--config-dir=my", "~mode", "+a=3"]),
        (["prompt=a cat, sitting on 1,000 mats"], ["prompt=a cat, sitting on 1,000 mats"]),
        (["prompt='a cat,a dog'"], ["prompt='a cat,a dog'"]),
        (["--nix"], ["--nix"]),
        (["prompt", "=", "a cat", "seed", "=3"], [CAT, "seed=3"]),
        (["seed=", "3", "mode", "=view"], ["seed=3", "mode=view"]),
        ([CAT, "seed==3", "\u2013steps", "8"], [CAT, "seed=3", "steps=8"]),
        (["seed=", "mode=view"], ["seed=", "mode=view"]),
        (["prompt==a cat"], ["prompt==a cat"]),
        (["--seed", "=", "3", "-m"], ["-m", "seed=3"]),
    ],
    ids=lambda value: " ".join(value),
)  # fmt: skip
def test_what_is_meant_is_understood(typed, means):
    assert understood(typed) == means
    assert understood(means) == means


def test_a_word_that_belongs_to_no_setting_is_left_to_hydra():
    assert understood([CAT, "seed=1", "dog"]) == [CAT, "seed=1", "dog"]


def test_a_mode_alone_is_no_prompt():
    with pytest.raises(UserError, match="gallery is a mode; type mode=gallery"):
        understood(["gallery"])


def test_what_resembles_nothing_has_no_suggestion():
    assert nearest("xqzw", settings_of()) == []
    assert options_of("nix") == []


def test_the_options_and_settings_of_a_users_folder_are_suggested(tmp_path, monkeypatch):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    (tmp_path / "mode").mkdir()
    (tmp_path / "mode" / "count.yaml").write_text("_target_: mine.count\n_partial_: true\nunit: MB\n")
    for words, answer in ((["mode=count", "mode.units=GB"], "Type mode.unit=GB"), (["mode=cuont"], "mode=count?")):
        monkeypatch.setattr(sys, "argv", ["launch.py", "--config-dir", str(tmp_path), *words])
        GlobalHydra.instance().clear()
        with pytest.raises(SystemExit) as end:
            run_command()
        assert answer in end.value.code
