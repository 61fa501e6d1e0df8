"""Meshes are exported while the window keeps serving."""

import threading
from functools import partial
from types import SimpleNamespace

import pytest

from dreamfusion.view.exports import Exports
from dreamfusion.view.mailbox import Mailbox


@pytest.fixture
def mailbox():
    return Mailbox(still=0.0, every=10, coarse=8, sharp=16)


@pytest.fixture
def said():
    return []


@pytest.fixture
def window(said):
    return SimpleNamespace(show_exporting=said.append)


def test_one_mesh_at_a_time_is_exported_in_the_background(mailbox, window, said):
    may_end, made = threading.Event(), []

    def make(scene):
        assert may_end.wait(60)
        made.append((scene, threading.get_ident()))
        return lambda: said.append(threading.get_ident())

    exports = Exports(window, mailbox, make)
    exports.begin("first")
    exports.begin("second")  # pressed twice
    mailbox.run_posted()
    assert (said, made) == ([True], [])
    may_end.set()
    exports.finish()
    ((scene, thread),) = made
    assert scene == "first"
    assert thread != threading.get_ident()
    assert said == [True, False, threading.get_ident()]
    exports.begin("third")
    exports.finish()
    assert [scene for scene, _ in made] == ["first", "third"]


def test_a_finished_export_wakes_the_waiting_thread(mailbox, window, said):
    exports = Exports(window, mailbox, lambda scene: partial(said.append, scene))
    exports.begin("a cat")
    while len(said) < 3:
        mailbox.wait(0, 60.0)
        mailbox.run_posted()
    assert said == [True, False, "a cat"]


def test_an_unexpected_error_is_raised_on_the_scenes_thread(mailbox, window, said):
    def make(scene):
        raise ZeroDivisionError("by chance")

    exports = Exports(window, mailbox, make)
    exports.begin("a cat")
    with pytest.raises(ZeroDivisionError, match="by chance"):
        exports.finish()
    assert said == [True, False]
    exports.finish()  # nothing remains


def test_without_an_export_finish_returns_at_once(mailbox, window, said):
    Exports(window, mailbox, None).finish()
    assert said == []
