"""Where the window's threads and the one that owns the scene meet: who looks from where, what was asked, what is due.

The callbacks of the window come in threads of its own, at any time. They only leave notes here. The thread that trains,
and it alone, reads them between two steps, so that nothing looks at a scene while the optimizer changes it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from dreamfusion.view.frame import View

Action = Callable[[], None]


@dataclass(frozen=True, eq=False)
class Job:
    """A picture that a client is waiting for."""

    client: int
    view: View
    sharp: bool
    number: int  # of the client's view, counted up as it moves


@dataclass
class _Client:
    view: View
    number: int
    moved: float  # when, on the mailbox's clock
    shown: Job | None = None
    step: int = 0  # that the picture shows


class Mailbox:
    """Notes of any thread; what is due for the owner of the scene.

    A camera that moves gets coarse pictures, one that has been still for `still` seconds a sharp one, and again after
    `every` steps of training. Nobody there, nothing due.
    """

    def __init__(self, still: float, every: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.still, self.every, self._clock = still, every, clock
        self._changed = threading.Condition()
        self._clients: dict[int, _Client] = {}
        self._actions: deque[Action] = deque()
        self._scene_hidden = False

    def set_view(self, client: int, view: View) -> None:
        """A client's camera is here now."""
        with self._changed:
            known = self._clients.get(client)
            if known is None:
                # Nobody has moved yet: sharp at once after the first coarse picture.
                self._clients[client] = _Client(view, 0, self._clock() - self.still)
            elif known.view != view:
                known.view, known.number, known.moved = view, known.number + 1, self._clock()
            else:
                return
            self._changed.notify()

    def remove_client(self, client: int) -> None:
        """A client is gone."""
        with self._changed:
            self._clients.pop(client, None)

    def post(self, action: Action) -> None:
        """Have the owner of the scene call `action`, after the step it is at."""
        with self._changed:
            self._actions.append(action)
            self._changed.notify()

    @property
    def has_clients(self) -> bool:
        """Whether anybody is there."""
        with self._changed:
            return bool(self._clients)

    def run_posted(self) -> None:
        """Do what was asked, in the order it came."""
        while True:
            with self._changed:
                if not self._actions:
                    return
                action = self._actions.popleft()
            action()

    def set_scene_hidden(self, hidden: bool) -> None:
        """While the scene is covered nothing is due; uncovered, everybody needs a new picture."""
        with self._changed:
            self._scene_hidden = hidden
        self.invalidate()

    def invalidate(self) -> None:
        """The pictures that are shown are out of date, whatever the step."""
        with self._changed:
            for client in self._clients.values():
                client.shown = None
            self._changed.notify()

    def next_job(self, step: int) -> Job | None:
        """The next picture to make: coarse ones first, they are what somebody feels."""
        with self._changed:
            jobs = [job for name, client in self._clients.items() if (job := self._job(name, client, step))]
        return min(jobs, key=lambda job: job.sharp, default=None)

    def is_stale(self, job: Job) -> bool:
        """Whether a picture is no longer wanted: its client has moved on or gone, or a button waits."""
        with self._changed:
            client = self._clients.get(job.client)
            return client is None or client.number != job.number or bool(self._actions)

    def mark_shown(self, job: Job, step: int) -> None:
        """The picture was shown."""
        with self._changed:
            client = self._clients.get(job.client)
            if client is not None:
                client.shown, client.step = job, step

    def wait(self, step: int, seconds: float) -> None:
        """Sleep until something is due or asked for; at most `seconds`."""
        with self._changed:
            if self._actions or self.next_job(step) is not None:
                return
            now = self._clock()
            moments = [
                client.moved + self.still - now  # above 0, or its sharp picture were due
                for client in self._clients.values()
                if client.shown is not None and not client.shown.sharp and not self._scene_hidden
            ]
            self._changed.wait(min([seconds, *moments]))

    def _job(self, name: int, client: _Client, step: int) -> Job | None:
        if self._scene_hidden:
            return None
        shown = client.shown
        if shown is None or shown.number != client.number:
            return Job(name, client.view, False, client.number)
        if self._clock() - client.moved >= self.still and (not shown.sharp or step - client.step >= self.every):
            return Job(name, client.view, True, client.number)
        return None
