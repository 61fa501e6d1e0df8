"""What is due when: by a clock that the test turns."""

import threading
from dataclasses import replace

import pytest

from dreamfusion.view.frame import View
from dreamfusion.view.mailbox import Desk

HERE = View((0.0, 0.0, 3.0), (0.0, 0.0, -1.0), (0.0, -1.0, 0.0), 0.7, 600, 800)
STILL, EVERY = 1.0, 10


def there(x):
    return replace(HERE, position=(x, 0.0, 3.0))


@pytest.fixture
def now():
    return [100.0]


@pytest.fixture
def desk(now):
    return Desk(STILL, EVERY, clock=lambda: now[0])


def serve(desk, step=0):
    """Make everything that is due; returns it as (client, sharp)."""
    made = []
    while (job := desk.due(step)) is not None:
        desk.done(job, step)
        made.append((job.client, job.sharp))
    return made


def test_nothing_is_due_while_nobody_is_there(desk):
    assert not desk.watched
    assert all(desk.due(step) is None for step in range(1000))


def test_who_comes_sees_a_coarse_picture_and_then_a_sharp_one_at_once(desk):
    desk.look(7, HERE)
    assert desk.watched
    assert serve(desk) == [(7, False), (7, True)]


def test_a_moving_camera_gets_one_coarse_picture_a_move_and_a_sharp_one_when_it_is_still(desk, now):
    desk.look(7, HERE)
    serve(desk)
    for x in (1.0, 2.0, 3.0):
        desk.look(7, there(x))
        assert desk.due(0).view == there(x)
        assert serve(desk) == [(7, False)]
        now[0] += STILL / 2
    assert serve(desk) == []
    now[0] += STILL / 2
    assert serve(desk) == [(7, True)]


def test_of_many_moves_between_two_steps_the_last_one_alone_is_rendered(desk):
    for x in range(100):
        desk.look(7, there(float(x)))
    assert desk.due(0).view == there(99.0)
    assert serve(desk) == [(7, False)]


def test_a_camera_that_says_the_same_again_has_not_moved(desk):
    desk.look(7, HERE)
    serve(desk)
    desk.look(7, replace(HERE))
    assert serve(desk) == []


def test_a_still_camera_gets_a_new_picture_every_so_many_steps_and_not_before(desk):
    desk.look(7, HERE)
    serve(desk, step=3)
    assert [step for step in range(3, 40) if serve(desk, step)] == [13, 23, 33]


def test_a_moving_camera_does_not_get_more_pictures_because_the_training_goes_on(desk):
    desk.look(7, HERE)
    serve(desk)
    desk.look(7, there(1.0))
    serve(desk)
    assert [step for step in range(100) if serve(desk, step)] == []


def test_coarse_pictures_come_before_the_sharp_ones_of_others(desk):
    desk.look(1, HERE)
    desk.done(desk.due(0), 0)  # the first one waits for its sharp picture
    desk.look(2, HERE)
    assert serve(desk) == [(2, False), (1, True), (2, True)]


def test_a_picture_is_stale_once_its_client_moves_or_leaves_or_a_button_is_pressed(desk):
    desk.look(1, HERE)
    job = desk.due(0)
    assert not desk.is_stale(job)
    desk.look(1, there(1.0))
    assert desk.is_stale(job)
    job = desk.due(0)
    desk.ask(lambda: None)
    assert desk.is_stale(job)
    desk.act()
    assert not desk.is_stale(job)
    desk.leave(1)
    assert desk.is_stale(job)
    desk.done(job, 0)  # is no error
    assert not desk.watched
    assert desk.due(0) is None


def test_what_is_asked_is_done_once_in_order_and_by_the_thread_that_acts(desk):
    done = []
    for number in range(3):
        thread = threading.Thread(target=desk.ask, args=(lambda n=number: done.append((n, threading.get_ident())),))
        thread.start()
        thread.join()
    assert done == []
    desk.act()
    desk.act()
    assert done == [(number, threading.get_ident()) for number in range(3)]


def test_a_covered_scene_needs_no_picture_and_an_uncovered_one_a_new_one(desk):
    desk.look(1, HERE)
    serve(desk)
    desk.cover(True)
    desk.look(1, there(1.0))
    assert serve(desk, step=1000) == []
    desk.cover(False)
    assert serve(desk) == [(1, False)]


def test_renewing_makes_every_picture_again(desk):
    desk.look(1, HERE)
    desk.look(2, HERE)
    serve(desk)
    desk.renew()
    assert sorted(serve(desk)) == [(1, False), (1, True), (2, False), (2, True)]


@pytest.mark.parametrize("note", ["look", "ask"])
def test_a_note_wakes_who_waits(note):
    desk = Desk(STILL, EVERY)
    waits = threading.Thread(target=desk.wait, args=(0, 60.0))
    waits.start()
    desk.look(1, HERE) if note == "look" else desk.ask(lambda: None)  # before the wait or in it: the same
    waits.join(30.0)
    assert not waits.is_alive()


def test_waiting_ends_when_a_camera_has_become_still():
    desk = Desk(0.05, EVERY)
    desk.look(1, HERE)
    serve(desk)
    desk.look(1, there(1.0))
    desk.done(desk.due(0), 0)
    waits = threading.Thread(target=desk.wait, args=(0, 60.0))
    waits.start()
    waits.join(30.0)
    assert not waits.is_alive()
    assert desk.due(0).sharp
