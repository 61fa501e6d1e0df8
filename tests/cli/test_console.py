import io
import logging
import os
import warnings
from types import SimpleNamespace

import pytest
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.trainer.connectors import data_connector
from torch.utils.data import DataLoader
from training import train

from dreamfusion.cli.console import Console, filter_messages
from dreamfusion.error import one_line
from dreamfusion.phases import phase


@pytest.fixture
def lines():
    """The messages that a handler of the root logger prints."""
    printed, root = [], logging.getLogger()
    handler, level = logging.Handler(), root.level
    handler.emit = lambda record: printed.append(record.getMessage())
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    filter_messages()
    yield printed
    root.removeHandler(handler)
    root.setLevel(level)


def test_a_message_of_lightning_is_printed_once(lines):
    logging.getLogger("lightning.pytorch.utilities.rank_zero").info("GPU available: False, used: False")
    logging.getLogger("lightning.fabric.utilities.seed").info("Seed set to 3")
    assert lines == ["GPU available: False, used: False", "Seed set to 3"]


@pytest.mark.parametrize(
    "noise",
    [
        "💡 Tip: try litlogger",
        "TPU available: False, using: 0 TPU cores",
        "`weights_only` was not set, defaulting to",
        "You are using a CUDA device ('NVIDIA H200') that has Tensor Cores. To properly utilize them, you should set",
    ],
)
def test_advertisements_and_hints_that_need_no_action_are_dropped(lines, noise):
    logging.getLogger("lightning.pytorch.utilities.rank_zero").info(noise)
    assert lines == []


def test_lightnings_warnings_about_the_run_are_printed(lines):
    logging.getLogger("lightning.pytorch").warning("the loss is nan")
    assert lines == ["the loss is nan"]


def test_only_the_named_warning_is_ignored():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        filter_messages()
        warnings.warn("`isinstance(treespec, LeafSpec)` is deprecated, use something else", FutureWarning, stacklevel=1)
        warnings.warn("something else is deprecated", FutureWarning, stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["something else is deprecated"]


def test_lightning_does_not_ask_for_workers_on_a_machine_of_many_cores(make_system, tmp_path, monkeypatch):
    """Warnings are errors here."""
    monkeypatch.setattr(data_connector, "suggested_max_num_workers", lambda devices: 15)
    with pytest.warns(PossibleUserWarning, match="does not have many workers"):
        data_connector._worker_check(SimpleNamespace(num_devices=1), DataLoader([0]), "train_dataloader")
    train(make_system(), tmp_path, steps=1)


def test_characters_that_the_console_cannot_encode_are_escaped(monkeypatch):
    screen = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", screen)
    filter_messages()
    print("a 🐈", end="", flush=True)
    assert screen.buffer.getvalue() == rb"a \U0001f408"


def test_control_characters_of_a_foreign_prompt_are_escaped():
    """A terminal would obey them: here, set its title and clear the screen."""
    with io.StringIO() as stream:
        Console(stream).emit(logging.makeLogRecord({"msg": "a\tcat 🐈\n\x1b]0;x\x07\x1b[2J\x9b1m\r"}))
        assert stream.getvalue() == "a\tcat 🐈\n\\x1b]0;x\\x07\\x1b[2J\\x9b1m\\x0d\n"
    assert one_line(ValueError("a\x1b[2J\nb")) == "a\\x1b[2J b"


def test_each_line_of_a_run_beside_others_names_it_and_none_replaces_the_last_of_a_terminal(monkeypatch):
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr("sys.stdout", screen)
    console = Console(screen)
    filter_messages("#1 a dog\a: ")
    try:
        with phase("mesh"):
            console.handle(logging.makeLogRecord({"msg": "\na dog: 2 steps\n  mesh.glb"}))
    finally:
        filter_messages()
    console.handle(logging.makeLogRecord({"msg": "a"}))
    assert screen.getvalue() == "\n#1 a dog\\x07: a dog: 2 steps\n#1 a dog\\x07:   mesh.glb\na\n"


def test_a_console_whose_reader_is_gone_is_quiet(capfd):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        console = Console(stream)
        for _ in range(3):
            console.emit(logging.makeLogRecord({"msg": "x"}))
        stream.write("more")  # flushed where the file is closed
    assert capfd.readouterr() == ("", "")
