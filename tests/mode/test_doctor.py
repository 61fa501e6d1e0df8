"""mode=doctor: which kernels run and why, whether they agree, and nothing private."""

import json
import logging
import sys
from pathlib import Path

import pytest
import torch

from dreamfusion.mode import doctor
from dreamfusion.ops import backend, parity
from dreamfusion.training.loggers import logged_in


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(doctor, "hub_answers", lambda: False)
    monkeypatch.setattr(doctor, "logged_in", lambda: False)


def test_the_report_names_the_backend_of_each_operation_and_its_deviation(
    offline, compose_config, tmp_path, caplog, monkeypatch
):
    def broken(op, name, device):
        if (op, name) == ("march", "torch"):
            raise RuntimeError(f"{Path.home()}/secret/build.log says no")
        return 1e-7

    monkeypatch.setattr(parity, "deviation", broken)
    monkeypatch.setenv("USER", "somebody")
    with caplog.at_level(logging.INFO):
        report = doctor.run(compose_config("mode=doctor"), str(tmp_path / "doctor.json"), 0, 60.0)
    operations = report["operations on cpu"]
    assert set(operations) == set(parity.OPERATIONS)
    assert operations["march"]["chosen"] == backend.choose("march", torch.device("cpu"))
    assert operations["composite"]["torch"] == "deviates by 1.0e-07"
    assert operations["march"]["torch"] == "fails: RuntimeError: build.log says no"
    assert json.loads((tmp_path / "doctor.json").read_text()) == json.loads(json.dumps(report, allow_nan=False))
    text = json.dumps(report, allow_nan=False)
    assert str(Path.home()) not in text and "somebody" not in text and str(Path.cwd()) not in text
    assert "torch" in report["packages"] and "march: chosen" in caplog.text
    assert "run" not in report


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/opt/somebody/lib/x.so: undefined symbol", "x.so: undefined symbol"),
        ("cannot open C:\\Users\\somebody\\x.dll", "cannot open x.dll"),
        ("somebody said no", "USER said no"),
        ("1/2 of them", "1/2 of them"),
    ],
)
def test_folders_and_names_of_users_are_left_out(monkeypatch, text, shown):
    monkeypatch.setenv("USER", "somebody")
    assert doctor._public({"reason": text}) == {"reason": shown}


def test_a_run_that_fails_is_a_line_of_the_report(compose_config, monkeypatch):
    monkeypatch.setattr(doctor, "assemble", lambda cfg: 1 / 0)
    assert doctor.speed(compose_config("mode=doctor"), 1) == "fails: ZeroDivisionError: division by zero"


def test_a_missing_package_is_a_line_of_the_report(compose_config, monkeypatch):
    monkeypatch.setattr(doctor, "hub_answers", lambda: False)
    monkeypatch.setattr(doctor.parity, "OPERATIONS", ())
    monkeypatch.setitem(sys.modules, "wandb", None)  # its import fails
    logged_in.cache_clear()
    report = doctor.run(compose_config("mode=doctor"), None, 0, 60.0)
    assert report["services"]["W&B login accepted"] == "wandb is not installed"
