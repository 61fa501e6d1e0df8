"""Which pictures are due, by a simulated clock."""

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
    return Mailbox(STILL, EVERY, 8, 16, clock=lambda: now[0])


def serve(mailbox, step=0):
    """Show every due picture; returns them as (client, sharp)."""
    made = []
    while (job := mailbox.next_job(step)) is not None:
        mailbox.mark_shown(job, step)
        made.append((job.client, job.sharp))
    return made


def test_without_clients_nothing_is_due(mailbox):
    assert not mailbox.has_clients
    assert all(mailbox.next_job(step) is None for step in range(1000))


def test_a_new_client_gets_a_coarse_picture_and_at_once_a_sharp_one(mailbox):
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


def test_of_many_moves_only_the_last_is_rendered(mailbox):
    for x in range(100):
        mailbox.set_view(7, there(float(x)))
    assert mailbox.next_job(0).view == there(99.0)
    assert serve(mailbox) == [(7, False)]


def test_setting_the_same_view_again_is_not_a_move(mailbox):
    mailbox.set_view(7, HERE)
    serve(mailbox)
    mailbox.set_view(7, replace(HERE))
    assert serve(mailbox) == []


def test_a_still_camera_gets_a_new_picture_every_10_steps(mailbox):
    mailbox.set_view(7, HERE)
    serve(mailbox, step=3)
    assert [step for step in range(3, 40) if serve(mailbox, step)] == [13, 23, 33]


def test_training_steps_do_not_add_pictures_to_a_moving_camera(mailbox):
    mailbox.set_view(7, HERE)
    serve(mailbox)
    mailbox.set_view(7, there(1.0))
    serve(mailbox)
    assert [step for step in range(100) if serve(mailbox, step)] == []


def test_coarse_pictures_come_before_other_clients_sharp_ones(mailbox):
    mailbox.set_view(1, HERE)
    mailbox.mark_shown(mailbox.next_job(0), 0)  # the first one waits for its sharp picture
    mailbox.set_view(2, HERE)
    assert serve(mailbox) == [(2, False), (1, True), (2, True)]


def test_a_picture_is_stale_after_a_move_a_disconnect_or_a_posted_action(mailbox):
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
    mailbox.mark_shown(job, 0)  # not an error
    assert not mailbox.has_clients
    assert mailbox.next_job(0) is None


def test_posted_actions_run_once_in_order_on_the_reading_thread(mailbox):
    done = []
    for number in range(3):
        thread = threading.Thread(target=mailbox.post, args=(lambda n=number: done.append((n, threading.get_ident())),))
        thread.start()
        thread.join()
    assert done == []
    mailbox.run_posted()
    mailbox.run_posted()
    assert done == [(number, threading.get_ident()) for number in range(3)]


def test_a_hidden_scene_needs_no_picture_and_a_shown_one_a_new_one(mailbox):
    mailbox.set_view(1, HERE)
    serve(mailbox)
    mailbox.set_scene_hidden(True)
    mailbox.set_view(1, there(1.0))
    assert serve(mailbox, step=1000) == []
    mailbox.set_scene_hidden(False)
    assert serve(mailbox) == [(1, False)]


def test_invalidating_renders_every_picture_again(mailbox):
    mailbox.set_view(1, HERE)
    mailbox.set_view(2, HERE)
    serve(mailbox)
    mailbox.invalidate()
    assert sorted(serve(mailbox)) == [(1, False), (1, True), (2, False), (2, True)]


@pytest.mark.parametrize("event", ["view", "action"])
def test_a_view_or_an_action_ends_a_wait(event):
    mailbox = Mailbox(STILL, EVERY, 8, 16)
    waits = threading.Thread(target=mailbox.wait, args=(0, 60.0))
    waits.start()
    mailbox.set_view(1, HERE) if event == "view" else mailbox.post(lambda: None)  # before or during the wait
    waits.join(30.0)
    assert not waits.is_alive()


def test_a_wait_ends_when_a_camera_becomes_still():
    mailbox = Mailbox(0.05, EVERY, 8, 16)
    mailbox.set_view(1, HERE)
    serve(mailbox)
    mailbox.set_view(1, there(1.0))
    mailbox.mark_shown(mailbox.next_job(0), 0)
    waits = threading.Thread(target=mailbox.wait, args=(0, 60.0))
    waits.start()
    waits.join(30.0)
    assert not waits.is_alive()
    assert mailbox.next_job(0).sharp
