"""The first signal ends a command with a message, the second one at once; foreign handlers stay."""

import os
import signal

import pytest

from dreamfusion.signals import ENDING, Stop, end_on_signals


@pytest.fixture(autouse=True)
def default_handlers():
    before = {number: signal.getsignal(number) for number in ENDING}
    for number in ENDING:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def ended(monkeypatch):
    """The statuses of processes that would have ended."""
    statuses = []
    monkeypatch.setattr(os, "_exit", statuses.append)
    return statuses


@pytest.mark.parametrize("number", ENDING)
def test_the_first_signal_raises_and_a_second_of_any_kind_ends_at_once(number, ended):
    end_on_signals()
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit) as error:
        signal.raise_signal(number)
    assert number == signal.SIGINT or error.value.code == 128 + number
    signal.raise_signal(signal.SIGTERM)
    assert ended == [143]


def test_after_a_noted_signal_the_next_ends_at_once(ended):
    end_on_signals()
    with Stop("stopping") as stop:
        signal.raise_signal(signal.SIGTERM)
    assert (stop.number, stop.status) == (signal.SIGTERM, 143)
    signal.raise_signal(signal.SIGINT)
    assert ended == [130]


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda number, frame: None], ids=["nohup", "submitit"])
def test_ignored_signals_and_foreign_handlers_stay(handler):
    signal.signal(signal.SIGTERM, handler)
    end_on_signals()
    with Stop("stopping") as stop:
        stop.install()
        signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is handler
    assert stop.number is None
