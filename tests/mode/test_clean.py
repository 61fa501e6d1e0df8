"""`mode=clean`: what runs keep that is not needed."""

import errno
import os
from contextlib import suppress
from pathlib import Path

import pytest
from launched import files
from results import CAT

from dreamfusion.runs import lock
from dreamfusion.runs.lock import locked
from dreamfusion.runs.results import write_result

RUN = "outputs/train/a-cat/"
SETTINGS = "prompt: a cat\nmode: {}\nguidance: {}\nscene: {}\n" + "#" * 100_000 + "\n"
KEPT = {"config.yaml", "checkpoints/last.ckpt", "checkpoints/previous.ckpt", "previews/000002.png"}


@pytest.fixture
def runs(tmp_path):
    """A finished, an unfinished and an empty run."""
    for name, has in (("done", KEPT), ("half", KEPT), ("empty", {"config.yaml"})):
        for file in has:
            path = tmp_path / RUN / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(1_000_000))
        (tmp_path / RUN / name / "config.yaml").write_text(SETTINGS)
    write_result(CAT, tmp_path / RUN / "done")
    return tmp_path


def test_it_says_what_there_is_and_removes_nothing_by_default(runs, launch):
    before = files(runs)
    ended = launch(runs, "mode=clean")
    assert ended.status == 0, ended.text
    assert files(runs) == before
    lines = [line.split()[:4] for line in ended.text.splitlines()]
    assert lines == [["previous", "1", "1.0", "MB"], ["previews", "1", "1.0", "MB"],
                     ["checkpoints", "1", "2.0", "MB"], ["empty", "1", "0.1", "MB"],
                     [RUN + "empty"]]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("previous", {"done/checkpoints/previous.ckpt"}),
        ("previews", {"done/previews/000002.png"}),
        ("checkpoints", {"done/checkpoints/last.ckpt", "done/checkpoints/previous.ckpt"}),
        ("empty", {"empty/config.yaml"}),
    ],
)
def test_it_removes_what_is_named(runs, launch, name, gone):
    before = files(runs)
    ended = launch(runs, "mode=clean", f"mode.remove=[{name}]")
    assert ended.status == 0, ended.text
    assert before - files(runs) == {RUN + file for file in gone}


def test_only_runs_are_removed_and_only_with_what_runs_write(runs, launch):
    """A folder that somebody else's config.yaml is in, and an unfinished run with a file of the user's."""
    foreign = {"site/config.yaml": "title: mine\n", "site/thesis.txt": "x"}
    noted = {"noted/config.yaml": SETTINGS, "noted/notes.txt": "x"}
    above = {"above/config.yaml": SETTINGS, "above/run/result.json": "{}"}
    for path, text in (foreign | noted | above).items():
        (runs / path).parent.mkdir(parents=True, exist_ok=True)
        (runs / path).write_text(text)
    before = files(runs)
    ended = launch(runs, "mode=clean", "run=.", "mode.remove=[empty,previews,checkpoints,previous]")
    assert ended.status == 0, ended.text
    gone = {
        "empty/config.yaml",
        "done/checkpoints/last.ckpt",
        "done/checkpoints/previous.ckpt",
        "done/previews/000002.png",
    }
    assert before - files(runs) == {RUN + file for file in gone}
    assert f"  {RUN}empty" in ended.text


def test_a_run_without_its_checkpoints_is_listed_and_a_mode_that_needs_them_names_it(runs, launch):
    assert launch(runs, "mode=clean", "mode.remove=[checkpoints]").status == 0
    listed = launch(runs, "mode=list").text.splitlines()[1:3]
    assert {line.split()[-1] for line in listed} == {RUN + "done", RUN + "half"}
    (runs / RUN / "done" / "config.yaml").write_text("prompt: a cat")
    ended = launch(runs, "mode=gallery", f"run={RUN}done")
    assert "outputs/gallery.html: 1 run," in ended.text
    for choice in (f"run={RUN}done", f"checkpoint={RUN}done"):
        ended = launch(runs, "mode=export", choice)
        assert (ended.status, ended.text.count("\n")) == (1, 1), ended.text
        assert f"error: the run {RUN}done has no checkpoint" in ended.text


def test_a_run_at_work_is_left_alone_and_an_unknown_name_refused(runs, launch):
    with locked(runs / RUN / "done"):
        ended = launch(runs, "mode=clean", "mode.remove=[previous]")
    assert ended.status == 0, ended.text
    assert "another process is running in" in ended.text
    assert (runs / RUN / "done" / "checkpoints" / "previous.ckpt").is_file()
    assert "type some of previous, previews, checkpoints, empty" in launch(runs, "mode=clean", "mode.remove=[x]").text
    assert "no folder at elsewhere" in launch(runs, "mode=clean", "run=elsewhere").text


def test_an_empty_run_is_removed_where_a_locked_file_stays_until_it_is_closed(tmp_path, launch, monkeypatch):
    """The lock of the run that `mode=clean` removes is a file in its folder."""
    folder = tmp_path / "outputs/train/a-cat/empty"
    folder.mkdir(parents=True)
    (folder / "previews").mkdir()
    (folder / "config.yaml").write_text("prompt: a cat\nmode: {}\nguidance: {}\nscene: {}\n")
    held, unlink, release = [], os.unlink, lock.FileLock.release

    def removed(path, **options):
        if Path(os.fsdecode(path)).name == lock.LOCK and held:
            raise PermissionError(errno.EACCES, "used by another process", os.fsdecode(path))
        unlink(path, **options)

    def released(self, *arguments, **options):
        release(self, *arguments, **options)
        held.clear()
        with suppress(OSError):
            unlink(self.lock_file)

    monkeypatch.setattr(os, "unlink", removed)
    monkeypatch.setattr(lock, "sweep", lambda folder: held.append(folder))
    monkeypatch.setattr(lock.FileLock, "release", released)
    ended = launch(tmp_path, "mode=clean", "mode.remove=[empty]")
    assert ended.status == 0, ended.text
    assert not folder.exists()
