"""Each phase after training is shown while it runs, and logged with its time."""

import io
import logging

import pytest

from dreamfusion.phases import counted, phase


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_phase_is_logged_with_its_seconds(caplog):
    with caplog.at_level(logging.INFO), phase("mesh"):
        assert not caplog.messages
    (line,) = caplog.messages
    assert line.split() == ["mesh", "0.0", "s"]


def test_a_phase_that_fails_is_not_said_to_be_done(caplog):
    with caplog.at_level(logging.INFO), pytest.raises(ValueError, match="x"), phase("mesh"):
        raise ValueError("x")
    assert not caplog.messages


def test_a_terminal_shows_the_phase_and_its_count(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    with phase("turntable"):
        assert list(counted("ab", "turntable", 2)) == ["a", "b"]
    assert [text.strip() for text in screen.getvalue().replace("\033[K", "").split("\r") if text.strip()] == [
        "turntable ...",
        "turntable 1/2",
        "turntable 2/2",
    ]
