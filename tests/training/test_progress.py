"""One line on a terminal, few lines without one."""

import io
import logging
import re
from types import SimpleNamespace

import pytest
import torch

from dreamfusion.training.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run(progress, steps, first=0):
    trainer = SimpleNamespace(global_step=first, max_steps=steps, callback_metrics={})
    progress.on_train_start(trainer, None)
    for step in range(first + 1, steps + 1):
        trainer.global_step = step
        values = {"noise_level": 0.5, "gradient_norm": 100.0 + step, "opacity": 0.12345}
        trainer.callback_metrics = {name: torch.tensor(value) for name, value in values.items()}
        progress.on_train_batch_end(trainer, None, None, None, 0)
    progress.on_train_end(trainer, None)


@pytest.fixture
def terminal(monkeypatch):
    def width(columns):
        screen = Terminal()
        monkeypatch.setattr("sys.stdout", screen)
        monkeypatch.setenv("COLUMNS", str(columns))
        return screen

    return width


def test_the_bar_shows_step_speed_time_left_gradient_norm_and_opacity(terminal):
    screen = terminal(100)
    run(Progress(), 15)
    last = screen.getvalue().rstrip().split("\r")[-1]
    assert re.fullmatch(r"15/15 \S+ +[\d.]+it/s, 00:00 left, gradient norm 115, opacity 0.123", last)
    assert "Epoch" not in screen.getvalue()


@pytest.mark.parametrize("columns", [60, 80, 100, 200])
def test_the_bar_never_wraps(terminal, columns):
    screen = terminal(columns)
    run(Progress(), 15)
    assert max(len(line) for line in re.split(r"[\r\n]", screen.getvalue())) <= min(columns, 100)


def test_a_resumed_runs_bar_starts_at_the_checkpoints_step(terminal):
    screen = terminal(100)
    run(Progress(), 100, first=90)
    frames = screen.getvalue().strip().split("\r")
    assert frames[0].startswith("90/100")
    assert frames[-1].startswith("100/100")


def test_without_a_terminal_there_is_a_line_for_each_tenth(monkeypatch, caplog):
    monkeypatch.setattr("sys.stdout", io.StringIO())
    caplog.set_level(logging.INFO)
    run(Progress(), 1500)
    assert [message.split()[0] for message in caplog.messages] == [f"{n}/1500" for n in range(150, 1501, 150)]
    assert re.fullmatch(r"150/1500 [\d.]+it/s, \d\d:\d\d left, gradient norm 250, opacity 0.123", caplog.messages[0])


def test_only_the_first_process_prints(terminal, caplog):
    screen, progress = terminal(100), Progress()
    progress.disable()
    run(progress, 20)
    assert screen.getvalue() == ""
    assert caplog.messages == []
