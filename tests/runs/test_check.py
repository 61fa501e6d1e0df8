"""Settings are checked before anything is imported, built or downloaded."""

import pytest

from dreamfusion.error import UserError
from dreamfusion.runs.check import check_first


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
