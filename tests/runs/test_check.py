"""Settings are checked before anything is imported, built or downloaded."""

import pytest

from dreamfusion.error import UserError
from dreamfusion.runs.check import check_first, check_settings


@pytest.mark.parametrize(
    ("setting", "arguments"),
    [
        ("distillation=vsd", ["distillation=vsd"]),
        ("distillation=vsd", ["distillation=vsd", "guidance=sd", "mode=image"]),
        ("guidance.lora", ["guidance=sd", "guidance.lora=[owner/name/file.safetensors,1.0]", "mode=sample"]),
    ],
)
def test_a_missing_package_is_named_before_weights_are_loaded(setting, arguments, compose_config, monkeypatch):
    cfg = compose_config("prompt=a cat", *arguments)
    mode = arguments[-1].removeprefix("mode=") if arguments[-1].startswith("mode=") else "train"
    check_first(mode, cfg)
    monkeypatch.setattr("dreamfusion.runs.check.find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"{setting} needs the package peft; type pip install 'dreamfusion\[vsd\]'"):
        check_first(mode, cfg)
    check_first(mode, compose_config("prompt=a cat"))


@pytest.mark.parametrize("mode", ["train", "view"])
@pytest.mark.parametrize(
    ("arguments", "package"),
    [
        (["export=urdf"], r"coacd; .*\[urdf\]"),
        (["export=usdz"], r"usd-core; .*\[usd\]"),
        (["export=obj", "export.quads=true"], r"pynano\w+; .*\[quads\]"),
    ],
)
def test_a_missing_package_of_the_export_is_named_before_the_training(
    mode, arguments, package, compose_config, monkeypatch
):
    monkeypatch.setattr("dreamfusion.runs.check.find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"needs the package {package}"):
        check_first(mode, compose_config("prompt=a cat", *arguments))
    check_first(mode, compose_config("prompt=a cat", "export=urdf", "export.concavity=1"))


def test_a_picture_needs_a_file_and_with_most_priors_a_prompt(compose_config, tmp_path):
    picture = tmp_path / "cat, from the front.png"
    with pytest.raises(UserError, match=r"there is no file .*front\.png; type image=\.\.\. with a picture of one"):
        check_first("train", compose_config(f"image={picture}"))
    picture.write_bytes(b"")
    check_first("train", compose_config(f"image={picture}"))
    check_first("train", compose_config(f"image={picture}", "guidance=sd", "prompt=a cat"))
    with pytest.raises(UserError, match=r'image=.* needs a prompt with this prior; type prompt="a cat", or guidance='):
        check_first("view", compose_config(f"image={picture}", "guidance=sd"))
    with pytest.raises(UserError, match="seed is -1"):
        check_first("train", compose_config(f"image={picture}", "seed=-1"))


@pytest.mark.parametrize(
    "chosen", ["experiment=refine", "experiment=magic3d", "objective=prior_score", "prompts.file=a.txt"]
)
def test_several_processes_are_refused_for_what_one_decides(chosen, compose_config, tmp_path):
    with pytest.raises(UserError, match=r"takes several trainings, .* type trainer\.devices=1"):
        check_settings(compose_config("prompt=a cat", chosen, "trainer=ddp"))
    if chosen.startswith("prompts"):
        (tmp_path / "a.txt").write_text("a cat\n")
        with pytest.raises(UserError, match="takes several trainings"):
            check_first("train", compose_config(f"prompts.file={tmp_path / 'a.txt'}", "trainer=ddp"))
    check_settings(compose_config("prompt=a cat", chosen))
    check_settings(compose_config("prompt=a cat", "trainer=ddp"))
