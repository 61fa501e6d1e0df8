"""Commands that read an untrusted checkpoint execute nothing that it names."""

import pytest
import torch


def payload(mark):
    """Positional arguments that would make Hydra write a file."""
    return {"_target_": "pathlib.Path.write_text", "_args_": [{"_target_": "pathlib.Path", "_args_": [str(mark)]}, "!"]}


def spawned(mark):
    """Keyword arguments that would make Hydra start a process."""
    command = ["/usr/bin/touch", str(mark)]
    return {"_target_": "multiprocessing.util.spawnv_passfds", "path": command[0], "args": command, "passfds": []}


@pytest.fixture
def send(finished, tmp_path):
    """Write a copy of a real checkpoint with a changed configuration."""

    def write(change):
        content = torch.load(finished.run / "checkpoints" / "last.ckpt", weights_only=True)
        change(content["config"])
        torch.save(content, tmp_path / "sent.ckpt")
        return f"checkpoint={tmp_path / 'sent.ckpt'}"

    return write


@pytest.mark.parametrize("command", ["mode=export", "trainer.max_steps=4"])
@pytest.mark.parametrize("hidden", [lambda x: x, lambda x: [(x,)]], ids=["plain", "in_a_tuple_in_a_list"])
@pytest.mark.parametrize("evil", [payload, spawned])
def test_an_untrusted_checkpoint_executes_nothing(evil, hidden, command, send, launch, tmp_path):
    sent = send(lambda config: config["camera"].update(up_std=hidden(evil(tmp_path / "owned"))))
    ended = launch(tmp_path, sent, command)
    assert ended.status == 1
    assert ended.text.startswith("error: ")
    assert "sent.ckpt" in ended.text
    assert not (tmp_path / "owned").exists()


def test_an_untrusted_checkpoint_does_not_read_the_environment(send, launch, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    ended = launch(tmp_path, send(lambda config: config.update(prompt="${oc.env:SECRET}")), "mode=export")
    assert ended.status == 1
    assert "as prompt, which does not refer to a setting" in ended.text
    assert not (tmp_path / "mesh.glb").exists()


def test_the_same_checkpoint_without_a_payload_is_exported(send, launch, tmp_path):
    ended = launch(tmp_path, send(lambda config: None), "mode=export", "export.resolution=16", "export.texture=0")
    assert ended.status == 0, ended.text
    assert (tmp_path / "mesh.glb").is_file()
