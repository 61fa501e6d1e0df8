"""Thread-safe exchange between the window's threads and the thread that owns the scene.

viser runs the window's callbacks on its own threads, at any time. They only post here. The thread that trains reads the
mailbox between two steps, so that no other thread reads the scene while the optimizer updates it.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from dreamfusion.view.frame import View

Action = Callable[[], None]


@dataclass(frozen=True, eq=False)
class Job:
    """A picture to render for a client."""

    client: int
    view: View
    sharp: bool
    number: int  # of the client's view; incremented with each move


@dataclass
class _Client:
    view: View
    number: int
    moved: float  # time of the last move
    shown: Job | None = None
    step: int = 0  # training step of the displayed picture


class Mailbox:
    """Client views and actions posted by any thread, and the render jobs that follow from them.

    Each move of a camera needs a coarse picture; a camera that has been still for `still` seconds needs a sharp one,
    and another one every `every` training steps. Their longer sides have `coarse` and `sharp` pixels.
    """

    def __init__(
        self, still: float, every: int, coarse: int, sharp: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.still, self.every, self.coarse, self.sharp, self._clock = still, every, coarse, sharp, clock
        self._changed = threading.Condition()
        self._clients: dict[int, _Client] = {}
        self._actions: deque[Action] = deque()
        self._scene_hidden = False

    def set_view(self, client: int, view: View) -> None:
        """Set a client's camera; adds the client if it is new."""
        with self._changed:
            known = self._clients.get(client)
            if known is None:
                # A new client gets its sharp picture right after the coarse one.
                self._clients[client] = _Client(view, 0, self._clock() - self.still)
            elif known.view != view:
                known.view, known.number, known.moved = view, known.number + 1, self._clock()
            else:
                return
            self._changed.notify()

    def remove_client(self, client: int) -> None:
        """Remove a client that disconnected."""
        with self._changed:
            self._clients.pop(client, None)

    def post(self, action: Action) -> None:
        """Have the scene's thread call `action` after its current step."""
        with self._changed:
            self._actions.append(action)
            self._changed.notify()

    @property
    def has_clients(self) -> bool:
        """Whether any client is connected."""
        with self._changed:
            return bool(self._clients)

    def run_posted(self) -> None:
        """Run the posted actions in order."""
        while True:
            with self._changed:
                if not self._actions:
                    return
                action = self._actions.popleft()
            action()

    def set_scene_hidden(self, hidden: bool) -> None:
        """Hide or show the scene; a hidden scene needs no pictures, and showing it renders every picture again."""
        with self._changed:
            self._scene_hidden = hidden
        self.invalidate()

    def invalidate(self) -> None:
        """Mark every client's picture as out of date."""
        with self._changed:
            for client in self._clients.values():
                client.shown = None
            self._changed.notify()

    def next_job(self, step: int) -> Job | None:
        """The next picture to render; coarse pictures first, because their delay is felt."""
        with self._changed:
            jobs = [job for name, client in self._clients.items() if (job := self._job(name, client, step))]
        return min(jobs, key=lambda job: job.sharp, default=None)

    def is_stale(self, job: Job) -> bool:
        """Whether a picture can be abandoned: its client moved or disconnected, or an action is waiting."""
        with self._changed:
            client = self._clients.get(job.client)
            return client is None or client.number != job.number or bool(self._actions)

    def mark_shown(self, job: Job, step: int) -> None:
        """Record that the picture of a job was displayed."""
        with self._changed:
            client = self._clients.get(job.client)
            if client is not None:
                client.shown, client.step = job, step

    def wait(self, step: int, seconds: float) -> None:
        """Sleep until there is a job or an action, at most `seconds`."""
        with self._changed:
            if self._actions or self.next_job(step) is not None:
                return
            now = self._clock()
            delays = [
                client.moved + self.still - now  # positive: otherwise there would be a sharp job
                for client in self._clients.values()
                if client.shown is not None and not client.shown.sharp and not self._scene_hidden
            ]
            self._changed.wait(min([seconds, *delays]))

    def _job(self, name: int, client: _Client, step: int) -> Job | None:
        if self._scene_hidden:
            return None
        shown = client.shown
        if shown is None or shown.number != client.number:
            return Job(name, client.view, False, client.number)
        if self._clock() - client.moved >= self.still and (not shown.sharp or step - client.step >= self.every):
            return Job(name, client.view, True, client.number)
        return None
