"""Folders of options on the command line: several of them, and the studies of the package beside them."""

import sys

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

import dreamfusion
from dreamfusion import untrusted
from dreamfusion.cli.command import run_command
from dreamfusion.cli.folders import Folders, with_folders
from dreamfusion.error import UserError
from dreamfusion.paths import CONFIGURATION, SWEEPS


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The folders `mine` and `other` with an option each, in the working directory."""
    for path, text in (
        ("mine/distillation/asd.yaml", "# Choose never.\ndefaults:\n  - sds\n\nshift: 3\n"),
        ("other/camera/far.yaml", "# Choose never.\ndefaults:\n  - orbit\n\nfar: 5\n"),
    ):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Folders, "further", [])
    yield tmp_path
    GlobalHydra.instance().clear()


def composed(monkeypatch, capsys, *arguments):
    """What `--cfg job` prints for a command."""
    monkeypatch.setattr(sys, "argv", ["launch.py", *arguments, "--cfg", "job"])
    GlobalHydra.instance().clear()
    run_command()
    return OmegaConf.create(capsys.readouterr().out)


@pytest.mark.parametrize(
    "place",
    [
        ["-cd", "sweeps", "-cn", "methods", "--config-dir", "mine"],
        ["--config-dir=mine", "-cn", "methods", "-cd", "sweeps"],
        ["--config-dir", "mine", "--config-name=methods"],
    ],
    ids=" ".join,
)
def test_a_study_of_the_package_has_the_options_of_a_users_folder(place, mine, monkeypatch, capsys):
    cfg = composed(monkeypatch, capsys, *place, "distillation=asd")
    assert (cfg.study, cfg.distillation.shift) == ("methods", 3)


def test_several_folders_are_searched(mine, monkeypatch, capsys):
    cfg = composed(monkeypatch, capsys, "--config-dir=mine", "-cd", "other", "distillation=asd", "camera=far")
    assert (cfg.distillation.shift, cfg.camera.far) == (3, 5)
    assert "shift" not in composed(monkeypatch, capsys).distillation  # the next command has no folder
    assert Folders.further == []


def test_an_own_study_comes_before_one_of_the_package(mine, monkeypatch, capsys):
    (mine / "mine" / "methods.yaml").write_text("defaults:\n  - config\n  - _self_\n\nstudy: own\n")
    assert composed(monkeypatch, capsys, "-cd", "mine", "-cn", "methods").study == "own"


def test_folders_that_are_not_there_are_named_and_sweeps_is_the_packages(mine):
    assert with_folders(["-cd", "sweeps/", "-cn", "x"]) == ["-cd", str(SWEEPS), "-cn", "x"]
    assert with_folders(["-cd=sweeps"]) == [f"-cd={SWEEPS}"]
    for typed in (["-cd", "none"], ["--config-dir=none", "-cd", "mine"]):
        with pytest.raises(UserError, match="there is no folder none; type "):
            with_folders(typed)
    (mine / "sweeps").mkdir()
    assert with_folders(["-cd", "sweeps"]) == ["-cd", "sweeps"]
    assert with_folders(["-cd"]) == ["-cd"]  # Hydra's parser names the missing value


def test_an_option_with_the_name_of_one_of_the_package_is_refused(mine, monkeypatch, capsys):
    """Hydra would use that of the package, without a word."""
    copy = mine / "other" / "camera" / "orbit.yaml"
    copy.write_bytes((CONFIGURATION / "camera" / "orbit.yaml").read_bytes())
    assert composed(monkeypatch, capsys, "-cd", "other", "camera=far").camera.far == 5
    copy.write_text(copy.read_text().replace("views: 2", "views: 7"))
    for place in (["-cd", "other"], ["-cd", "other", "-cd", "mine"], ["-cd", "mine", "-cd", "other"]):
        with pytest.raises(
            UserError, match=r"other/camera/orbit\.yaml would not be used: the package has an option of"
        ):
            with_folders(place)
    with pytest.raises(UserError, match="would not be used"):
        dreamfusion.compose(config_dir="other")
    monkeypatch.setattr("dreamfusion.cli.folders.check_names", lambda folders: None)
    assert composed(monkeypatch, capsys, "-cd", "other").camera.views == 2
    untrusted.TRUSTED.clear()
