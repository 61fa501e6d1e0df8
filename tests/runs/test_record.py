"""run.json: which code and machine made a run, without anything private."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dreamfusion import __version__
from dreamfusion.runs import record
from dreamfusion.runs.record import add_session, checkout, digest_of, earlier, public, versions

COMMIT = ("-c", "user.name=x", "-c", "user.email=x", "commit", "-q", "--allow-empty", "-m", "x")


def git(folder, *arguments):
    return subprocess.run(["git", "-C", folder, *arguments], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """A git checkout with one file of code."""
    (tmp_path / "dreamfusion").mkdir()
    (tmp_path / "dreamfusion" / "a.py").write_text("a = 1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, *COMMIT)
    return tmp_path


def test_a_session_has_the_versions_and_threads_of_this_process():
    found = record.session()
    assert found["versions"]["torch"] == torch.__version__ and found["versions"]["dreamfusion"] == __version__
    assert found["threads"] == torch.get_num_threads() and found["config_dirs"] == {}
    assert found["command"] and found["processor"] and found["system"]


def test_a_new_run_forgets_the_sessions_of_an_earlier_one_and_a_broken_file_ends_nothing(tmp_path):
    add_session(tmp_path, new=True)
    add_session(tmp_path, new=False)
    assert len(earlier(tmp_path)) == 2
    add_session(tmp_path, new=True)
    assert len(earlier(tmp_path)) == 1
    for text in ("{", "[]", "3", '{"sessions": 3}', '{"sessions": [NaN]}', '{"sessions": [1e999]}', "[" * 100_000):
        (tmp_path / "run.json").write_text(text)
        add_session(tmp_path, new=False)
        assert len(earlier(tmp_path)) == 1


def test_a_session_names_neither_user_nor_host_nor_home(monkeypatch, tmp_path):
    home = tmp_path / "somebody"
    (home / "here").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USER", "somebody")
    monkeypatch.setenv("SECRET", "hidden")
    monkeypatch.chdir(home / "here")
    monkeypatch.setattr(sys, "argv", [str(home / "launch.py"), f"start={home}/here/cat.glb", f"image={home}/cat.png"])
    monkeypatch.setattr(record, "config_dirs", lambda: [home / "here" / "mine", home / "mine"])
    found = record.session()
    assert found["command"] == ["~/launch.py", "start=cat.glb", "image=~/cat.png"]
    assert set(found["config_dirs"]) == {"mine", "~/mine"}
    text = json.dumps(found, allow_nan=False)
    assert not any(word in text for word in ("somebody", "hidden", str(tmp_path)))


def test_only_whole_names_of_folders_are_shortened(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(Path(tmp_path.root)))
    here = str(tmp_path)
    assert public(f"a=[{here}/b,{here}]") == "a=[b,.]"
    assert public(f"a=file://{here}/b c") == "a=file://b c"
    assert public(f"{here}2/b a/b x{here}") == f"{here}2/b a/b x{here}"
    assert public("a\udcff") == "a\\udcff"


def test_the_commit_is_that_of_the_checkout_and_a_change_or_a_new_file_of_code_shows(repository, monkeypatch):
    monkeypatch.setenv("GIT_DIR", "nowhere")  # as in a hook of another repository
    head = (repository / ".git" / "refs" / "heads").iterdir().__next__().read_text().strip()
    assert checkout(repository) == {"commit": head, "changes": None}
    (repository / "notes.txt").write_text("not code")
    assert checkout(repository)["changes"] is None
    (repository / "dreamfusion" / "b.py").write_text("b = 1\n")
    new = checkout(repository)["changes"]
    (repository / "dreamfusion" / "a.py").write_text("a = 2\n")
    both = checkout(repository)["changes"]
    assert len({None, new, both}) == 3 and len(both) == 12
    assert checkout(repository)["changes"] == both


def test_without_a_checkout_or_git_there_is_no_commit_and_no_error(repository, monkeypatch, tmp_path):
    assert checkout(repository / "dreamfusion") is None  # inside a checkout, but not its top
    monkeypatch.setenv("PATH", str(tmp_path))
    assert checkout(repository) is None
    monkeypatch.undo()
    (repository / ".git" / "HEAD").write_text("broken")
    assert checkout(repository) is None


def test_the_hash_of_a_folder_changes_with_its_code_and_options_only(tmp_path):
    (tmp_path / "mine" / "scene").mkdir(parents=True)
    (tmp_path / "mine" / "scene" / "globe.yaml").write_text("radius: 1")
    before = digest_of(tmp_path / "mine")
    for name in ("outputs/train/config.yaml", ".venv/a.py", "notes.txt"):
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).touch()
    assert digest_of(tmp_path / "mine") == before
    (tmp_path / "mine" / "scene" / "globe.yaml").write_text("radius: 2")
    changed = digest_of(tmp_path / "mine")
    (tmp_path / "mine" / "globe.py").touch()
    assert len({before, changed, digest_of(tmp_path / "mine")}) == 3
    (tmp_path / "mine").rename(tmp_path / "moved")
    (tmp_path / "moved" / "globe.py").unlink()
    assert digest_of(tmp_path / "moved") == changed


def test_a_package_without_metadata_is_installed_and_one_without_files_is_not(monkeypatch, tmp_path):
    (tmp_path / "unheard_of.py").touch()
    assert versions(["unheard_of"])["unheard_of"] == "not installed"
    monkeypatch.syspath_prepend(tmp_path)
    assert versions(["unheard_of"])["unheard_of"] == "installed, of unknown version"
