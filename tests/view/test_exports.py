"""Meshes that are made while the window goes on."""

import threading
from functools import partial
from types import SimpleNamespace

import pytest

from dreamfusion.view.exports import Exports
from dreamfusion.view.mailbox import Mailbox


@pytest.fixture
def mailbox():
    return Mailbox(still=0.0, every=10)


@pytest.fixture
def said():
    return []


@pytest.fixture
def window(said):
    return SimpleNamespace(show_exporting=said.append)


def test_the_owner_goes_on_while_one_mesh_at_a_time_is_made(mailbox, window, said):
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


def test_a_mesh_that_is_done_wakes_the_owner(mailbox, window, said):
    exports = Exports(window, mailbox, lambda scene: partial(said.append, scene))
    exports.begin("a cat")
    while len(said) < 3:
        mailbox.wait(0, 60.0)
        mailbox.run_posted()
    assert said == [True, False, "a cat"]


def test_what_fails_unexpectedly_is_raised_where_the_owner_is(mailbox, window, said):
    def make(scene):
        raise ZeroDivisionError("by chance")

    exports = Exports(window, mailbox, make)
    exports.begin("a cat")
    with pytest.raises(ZeroDivisionError, match="by chance"):
        exports.finish()
    assert said == [True, False]
    exports.finish()  # nothing is left


def test_without_one_there_is_nothing_to_wait_for(mailbox, window, said):
    Exports(window, mailbox, None).finish()
    assert said == []
