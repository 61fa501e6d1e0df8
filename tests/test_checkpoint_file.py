"""Every damage of a checkpoint is found, the one before it is kept, and a full disk loses nothing."""

import errno
import os
import random
import secrets
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from dreamfusion.checkpoint_file import CheckpointFiles, read_verified, write_whole
from dreamfusion.error import CheckpointError, file_error
from dreamfusion.files import appending, replacing, sweep

CONTENT = {"state_dict": {"scene.table": torch.arange(3000.0), "scene.bias": torch.ones(3)}, "config": {"prompt": "a"}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "last.ckpt"
    write_whole(CONTENT, path, keep=False)
    return path.read_bytes()


@pytest.fixture
def save(tmp_path):
    """Write bytes as a checkpoint."""

    def write(data):
        (tmp_path / "last.ckpt").write_bytes(data)
        return tmp_path / "last.ckpt"

    return write


def test_a_checkpoint_is_read_as_it_was_written(whole, save):
    read = read_verified(save(whole))
    assert torch.equal(read["state_dict"]["scene.table"], CONTENT["state_dict"]["scene.table"])
    assert read["config"] == CONTENT["config"]


def test_every_flipped_bit_and_every_zeroed_block_is_found(whole, save):
    draw = random.Random(0)
    for trial in range(60):
        data, place = bytearray(whole), draw.randrange(len(whole))
        if trial < 40:
            data[place] ^= 1 << draw.randrange(8)
        else:
            data[place : place + 64] = bytes(len(data[place : place + 64]))
        if bytes(data) == whole:
            continue  # the block was zero before
        with pytest.raises(CheckpointError, match=r"last.ckpt cannot be read as a checkpoint \(\w+\)"):
            read_verified(save(data))


def test_a_flipped_bit_in_a_tensor_or_in_the_pickle_of_an_earlier_version_is_found(tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save(CONTENT, path)
    whole = path.read_bytes()
    assert read_verified(path)["config"] == CONTENT["config"]
    with zipfile.ZipFile(path) as archive:
        assert archive.comment == b""
    for text in (b"scene.bias", torch.arange(1000.0, 1002.0).numpy().tobytes()):
        place = whole.index(text)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CheckpointError):
            read_verified(path)


def test_a_damaged_checkpoint_offers_the_one_before_it(whole, save, tmp_path):
    path = save(whole[:-1])
    with pytest.raises(CheckpointError, match=r"is the file complete\?$"):
        read_verified(path)
    (tmp_path / "previous.ckpt").write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match=r"complete\?; type checkpoint=.*/previous.ckpt for the one before it$"):
        read_verified(path)
    with pytest.raises(CheckpointError, match=r"previous.ckpt .*is the file complete\?$"):
        read_verified(tmp_path / "previous.ckpt")


def steps(folder):
    return {path.name: read_verified(path)["step"] for path in sorted(folder.glob("*.ckpt"))}


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_the_two_last_checkpoints_are_kept(tmp_path, monkeypatch, links):
    def refuse(*paths):
        raise PermissionError(errno.EPERM, "no hard links here")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    files, path = CheckpointFiles(), tmp_path / "last.ckpt"
    files.save_checkpoint({"step": 1}, path)
    assert steps(tmp_path) == {"last.ckpt": 1}
    for step in (2, 3):
        files.save_checkpoint({"step": step}, str(path))
        assert steps(tmp_path) == {"last.ckpt": step, "previous.ckpt": step - 1}
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_checkpoint_never_replaces_the_good_one_before_it(tmp_path):
    CheckpointFiles().save_checkpoint({"step": 1}, tmp_path / "previous.ckpt")
    (tmp_path / "last.ckpt").write_bytes(b"damaged")
    resumed = CheckpointFiles()
    assert resumed.load_checkpoint(tmp_path / "previous.ckpt") == {"step": 1}
    resumed.save_checkpoint({"step": 2}, tmp_path / "last.ckpt")
    assert steps(tmp_path) == {"last.ckpt": 2, "previous.ckpt": 1}
    resumed.save_checkpoint({"step": 3}, tmp_path / "last.ckpt")
    assert steps(tmp_path) == {"last.ckpt": 3, "previous.ckpt": 2}


def test_a_checkpoint_needs_no_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    CheckpointFiles().save_checkpoint({"step": 1}, tmp_path / "last.ckpt")
    assert steps(tmp_path) == {"last.ckpt": 1}


def test_a_full_disk_is_named_with_the_needed_space_and_the_last_checkpoint_stays(tmp_path, monkeypatch):
    files, path = CheckpointFiles(), tmp_path / "last.ckpt"
    files.save_checkpoint({"step": 1}, path)

    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")  # as write(2) does: without a name

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="the disk is full") as error:
        files.save_checkpoint({"step": torch.zeros(500_000)}, path)
    assert file_error(error.value).startswith(f"cannot write to {tmp_path}: the disk is full: ")
    assert " MB are free, last.ckpt needs at least 2.0 MB; free some space" in file_error(error.value)
    assert steps(tmp_path) == {"last.ckpt": 1}
    assert len(list(tmp_path.iterdir())) == 1


def test_a_draft_is_a_new_file_though_a_link_has_its_name(tmp_path, monkeypatch):
    """Who may write to the folder could otherwise make a run overwrite any file of its owner."""
    monkeypatch.setattr(secrets, "randbelow", lambda limit: 4711)
    (tmp_path / "mine").write_text("kept")
    (tmp_path / f".report.{4711:018}.draft.md").symlink_to(tmp_path / "mine")
    with pytest.raises(FileExistsError), replacing(tmp_path / "report.md") as draft:
        draft.write_text("lost")
    assert (tmp_path / "mine").read_text() == "kept"


def test_drafts_have_names_that_cannot_be_guessed(tmp_path):
    with replacing(tmp_path / "report.md") as one, replacing(tmp_path / "report.md") as other:
        assert one != other


def test_only_the_drafts_of_killed_processes_are_swept(tmp_path):
    n = f"{4711:018}.draft"
    others = {
        ".zcompdump-host-5.9",
        ".python-3.11",
        ".lock.2",
        "project/.env.2024",
        "project/.coverage.host.4711.123456",
    }
    second = {"refined/.lock", f"refined/.turntable.{n}.mp4"}  # at work, perhaps
    kept = {".lock", ".hidden.png", "note.png", "previews/note.123.png", "previews/000001.png"} | others | second
    drafts = {f".turntable.{n}.mp4", f"previews/.000002.{n}.png", f".rungs.{n}.json", f".mesh.{n}"}
    for name in kept | drafts:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with replacing(tmp_path / "turntable.mp4") as draft:  # the names are those of `replacing`
        draft.touch()
        sweep(tmp_path)
        assert not draft.exists()
        draft.touch()
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == kept | {"turntable.mp4"}


def test_a_file_is_on_disk_before_it_has_its_name_and_the_name_before_the_next_write(tmp_path, monkeypatch):
    order, rename = [], Path.replace
    monkeypatch.setattr("dreamfusion.files.flush", order.append)
    monkeypatch.setattr(Path, "replace", lambda self, to: order.append("rename") or rename(self, to))
    with replacing(tmp_path / "a.txt") as draft:
        draft.write_text("x")
    with appending(tmp_path / "a.txt") as file:
        file.write("y")
    assert order == [draft, "rename", tmp_path, tmp_path / "a.txt"]


def test_a_checkpoint_that_would_grow_is_not_unpacked(tmp_path):
    """torch writes its members as they are."""
    torch.save({"x": torch.zeros(2**20)}, tmp_path / "plain.ckpt")
    with zipfile.ZipFile(tmp_path / "plain.ckpt") as plain, zipfile.ZipFile(tmp_path / "bomb.ckpt", "w") as bomb:
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name), zipfile.ZIP_DEFLATED)
    assert read_verified(tmp_path / "plain.ckpt")["x"].numel() == 2**20
    assert (tmp_path / "bomb.ckpt").stat().st_size < 20_000
    with pytest.raises(CheckpointError, match="BadZipFile"):
        read_verified(tmp_path / "bomb.ckpt")


class Own:
    """What `torch.load` does not build."""


@pytest.mark.parametrize("value", [Own(), OmegaConf.create([0.9, 0.99]), np.float64(1), lambda: 0, range(3)])
def test_content_that_could_not_be_read_is_refused_before_it_replaces_a_checkpoint(value, tmp_path):
    files, path = CheckpointFiles(), tmp_path / "last.ckpt"
    files.save_checkpoint({"callbacks": {"Count": {"steps": 3}}}, path)
    with pytest.raises(
        CheckpointError, match=r"checkpoint\.callbacks\.Count\.seen\.0 is a .*, with which no checkpoint"
    ):
        files.save_checkpoint({"callbacks": {"Count": {"seen": [value]}}}, path)
    assert read_verified(path) == {"callbacks": {"Count": {"steps": 3}}}


def test_what_torch_reads_is_accepted(tmp_path):
    content = {
        "size": torch.zeros(2).shape,
        "kind": torch.float16,
        "where": torch.device("cpu"),
        "set": {1, 2},
        3: (4,),
    }
    CheckpointFiles().save_checkpoint(content, tmp_path / "last.ckpt")
    assert read_verified(tmp_path / "last.ckpt") == content
