"""Meshes that are made while the window goes on."""

import threading
from functools import partial
from types import SimpleNamespace

import pytest

from dreamfusion.view.exports import Exports
from dreamfusion.view.mailbox import Desk


@pytest.fixture
def desk():
    return Desk(still=0.0, every=10)


@pytest.fixture
def said():
    return []


@pytest.fixture
def window(said):
    return SimpleNamespace(show_exporting=said.append)


def test_the_owner_goes_on_while_one_mesh_at_a_time_is_made(desk, window, said):
    may_end, made = threading.Event(), []

    def make(scene):
        assert may_end.wait(60)
        made.append((scene, threading.get_ident()))
        return lambda: said.append(threading.get_ident())

    exports = Exports(window, desk, make)
    exports.begin("first")
    exports.begin("second")  # pressed twice
    desk.act()
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


def test_a_mesh_that_is_done_wakes_the_owner(desk, window, said):
    exports = Exports(window, desk, lambda scene: partial(said.append, scene))
    exports.begin("a cat")
    while len(said) < 3:
        desk.wait(0, 60.0)
        desk.act()
    assert said == [True, False, "a cat"]


def test_what_fails_unexpectedly_is_raised_where_the_owner_is(desk, window, said):
    def make(scene):
        raise ZeroDivisionError("by chance")

    exports = Exports(window, desk, make)
    exports.begin("a cat")
    with pytest.raises(ZeroDivisionError, match="by chance"):
        exports.finish()
    assert said == [True, False]
    exports.finish()  # nothing is left


def test_without_one_there_is_nothing_to_wait_for(desk, window, said):
    Exports(window, desk, None).finish()
    assert said == []
