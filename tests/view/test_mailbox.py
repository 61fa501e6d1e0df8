"""What is due when: by a clock that the test turns."""

import threading
from dataclasses import replace

import pytest

from dreamfusion.view.frame import View
from dreamfusion.view.mailbox import Mailbox

HERE = View((0.0, 0.0, 3.0), (0.0, 0.0, -1.0), (0.0, -1.0, 0.0), 0.7, 600, 800)
STILL, EVERY = 1.0, 10


def there(x):
    return replace(HERE, position=(x, 0.0, 3.0))


@pytest.fixture
def now():
    return [100.0]


@pytest.fixture
def mailbox(now):
    return Mailbox(STILL, EVERY, clock=lambda: now[0])


def serve(mailbox, step=0):
    """Make everything that is due; returns it as (client, sharp)."""
    made = []
    while (job := mailbox.next_job(step)) is not None:
        mailbox.mark_shown(job, step)
        made.append((job.client, job.sharp))
    return made


def test_nothing_is_due_while_nobody_is_there(mailbox):
    assert not mailbox.has_clients
    assert all(mailbox.next_job(step) is None for step in range(1000))


def test_who_comes_sees_a_coarse_picture_and_then_a_sharp_one_at_once(mailbox):
    mailbox.set_view(7, HERE)
    assert mailbox.has_clients
    assert serve(mailbox) == [(7, False), (7, True)]


def test_a_moving_camera_gets_one_coarse_picture_a_move_and_a_sharp_one_when_it_is_still(mailbox, now):
    mailbox.set_view(7, HERE)
    serve(mailbox)
    for x in (1.0, 2.0, 3.0):
        mailbox.set_view(7, there(x))
        assert mailbox.next_job(0).view == there(x)
        assert serve(mailbox) == [(7, False)]
        now[0] += STILL / 2
    assert serve(mailbox) == []
    now[0] += STILL / 2
    assert serve(mailbox) == [(7, True)]


def test_of_many_moves_between_two_steps_the_last_one_alone_is_rendered(mailbox):
    for x in range(100):
        mailbox.set_view(7, there(float(x)))
    assert mailbox.next_job(0).view == there(99.0)
    assert serve(mailbox) == [(7, False)]


def test_a_camera_that_says_the_same_again_has_not_moved(mailbox):
    mailbox.set_view(7, HERE)
    serve(mailbox)
    mailbox.set_view(7, replace(HERE))
    assert serve(mailbox) == []


def test_a_still_camera_gets_a_new_picture_every_so_many_steps_and_not_before(mailbox):
    mailbox.set_view(7, HERE)
    serve(mailbox, step=3)
    assert [step for step in range(3, 40) if serve(mailbox, step)] == [13, 23, 33]


def test_a_moving_camera_does_not_get_more_pictures_because_the_training_goes_on(mailbox):
    mailbox.set_view(7, HERE)
    serve(mailbox)
    mailbox.set_view(7, there(1.0))
    serve(mailbox)
    assert [step for step in range(100) if serve(mailbox, step)] == []


def test_coarse_pictures_come_before_the_sharp_ones_of_others(mailbox):
    mailbox.set_view(1, HERE)
    mailbox.mark_shown(mailbox.next_job(0), 0)  # the first one waits for its sharp picture
    mailbox.set_view(2, HERE)
    assert serve(mailbox) == [(2, False), (1, True), (2, True)]


def test_a_picture_is_stale_once_its_client_moves_or_leaves_or_a_button_is_pressed(mailbox):
    mailbox.set_view(1, HERE)
    job = mailbox.next_job(0)
    assert not mailbox.is_stale(job)
    mailbox.set_view(1, there(1.0))
    assert mailbox.is_stale(job)
    job = mailbox.next_job(0)
    mailbox.post(lambda: None)
    assert mailbox.is_stale(job)
    mailbox.run_posted()
    assert not mailbox.is_stale(job)
    mailbox.remove_client(1)
    assert mailbox.is_stale(job)
    mailbox.mark_shown(job, 0)  # is no error
    assert not mailbox.has_clients
    assert mailbox.next_job(0) is None


def test_what_is_asked_is_done_once_in_order_and_by_the_thread_that_acts(mailbox):
    done = []
    for number in range(3):
        thread = threading.Thread(target=mailbox.post, args=(lambda n=number: done.append((n, threading.get_ident())),))
        thread.start()
        thread.join()
    assert done == []
    mailbox.run_posted()
    mailbox.run_posted()
    assert done == [(number, threading.get_ident()) for number in range(3)]


def test_a_covered_scene_needs_no_picture_and_an_uncovered_one_a_new_one(mailbox):
    mailbox.set_view(1, HERE)
    serve(mailbox)
    mailbox.set_scene_hidden(True)
    mailbox.set_view(1, there(1.0))
    assert serve(mailbox, step=1000) == []
    mailbox.set_scene_hidden(False)
    assert serve(mailbox) == [(1, False)]


def test_renewing_makes_every_picture_again(mailbox):
    mailbox.set_view(1, HERE)
    mailbox.set_view(2, HERE)
    serve(mailbox)
    mailbox.invalidate()
    assert sorted(serve(mailbox)) == [(1, False), (1, True), (2, False), (2, True)]


@pytest.mark.parametrize("note", ["look", "ask"])
def test_a_note_wakes_who_waits(note):
    mailbox = Mailbox(STILL, EVERY)
    waits = threading.Thread(target=mailbox.wait, args=(0, 60.0))
    waits.start()
    mailbox.set_view(1, HERE) if note == "look" else mailbox.post(lambda: None)  # before the wait or in it: the same
    waits.join(30.0)
    assert not waits.is_alive()


def test_waiting_ends_when_a_camera_has_become_still():
    mailbox = Mailbox(0.05, EVERY)
    mailbox.set_view(1, HERE)
    serve(mailbox)
    mailbox.set_view(1, there(1.0))
    mailbox.mark_shown(mailbox.next_job(0), 0)
    waits = threading.Thread(target=mailbox.wait, args=(0, 60.0))
    waits.start()
    waits.join(30.0)
    assert not waits.is_alive()
    assert mailbox.next_job(0).sharp
