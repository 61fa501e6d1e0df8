"""Meshes for the window: made on a thread of their own, so that pictures and training go on meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from dreamfusion.checkpoint import TrainedScene
from dreamfusion.view.mailbox import Action, Mailbox
from dreamfusion.view.window import Window


class Exports:
    """One mesh at a time; its end is a note on the mailbox, like a button that is pressed.

    The scene must be the export's alone, and making its mesh must draw nothing at random: torch's own generator is
    one for all threads, and a training uses it.
    """

    def __init__(self, window: Window, mailbox: Mailbox, make: Callable[[TrainedScene], Action]) -> None:
        """`make` makes the mesh and returns what the owner of the window's scene then does with it."""
        self._window, self._mailbox, self._make = window, mailbox, make
        self._thread: threading.Thread | None = None

    def begin(self, scene: TrainedScene) -> None:
        """Make the mesh of a scene, unless another one is being made."""
        if self._thread is None:
            self._window.show_exporting(True)
            # A daemon: the second Ctrl-C ends at once.
            self._thread = threading.Thread(target=self._work, args=(scene,), daemon=True)
            self._thread.start()

    def finish(self) -> None:
        """Wait for the mesh that is being made, and do what was asked meanwhile."""
        while self._thread is not None:
            self._thread.join()
            self._mailbox.run_posted()

    def _work(self, scene: TrainedScene) -> None:
        try:
            end = self._make(scene)
        except BaseException as error:
            end = partial(_fail, error)
        self._mailbox.post(partial(self._end, end))

    def _end(self, end: Action) -> None:
        self._thread = None
        self._window.show_exporting(False)
        end()


def _fail(error: BaseException) -> None:
    raise error
