"""Export meshes on a background thread, while rendering and training continue."""

import logging
import threading
from collections.abc import Callable
from functools import partial

from dreamfusion.checkpoint import TrainedScene
from dreamfusion.error import one_line, user_message
from dreamfusion.view.mailbox import Action, Mailbox
from dreamfusion.view.window import Window

log = logging.getLogger(__name__)


class Exports:
    """Exports one mesh at a time, and posts its result to the mailbox.

    The export needs a scene that no other thread uses, and must draw no random numbers: all threads share torch's
    default generator, which training uses.
    """

    def __init__(self, window: Window, mailbox: Mailbox, make: Callable[[TrainedScene], Action]) -> None:
        """`make` exports the mesh, and returns an action for the scene's thread to run afterwards."""
        self._window, self._mailbox, self._make = window, mailbox, make
        self._thread: threading.Thread | None = None

    def begin(self, scene: TrainedScene) -> None:
        """Export the mesh of a scene, unless an export is running already."""
        if self._thread is None:
            self._window.show_exporting(True)
            # A daemon thread, so that the second Ctrl-C ends the process at once.
            self._thread = threading.Thread(target=self._export, args=(scene,), daemon=True)
            self._thread.start()

    def finish(self) -> None:
        """Wait for the running export, and run the actions posted meanwhile."""
        while self._thread is not None:
            self._thread.join()
            self._mailbox.run_posted()

    def _export(self, scene: TrainedScene) -> None:
        try:
            action = self._make(scene)
        except BaseException as error:
            action = partial(_raise, error)
        self._mailbox.post(partial(self._end, action))

    def _end(self, action: Action) -> None:
        self._thread = None
        self._window.show_exporting(False)
        action()


def _raise(error: BaseException) -> None:
    raise error


def failure(error: Exception) -> str:
    """The sentence for the window; the traceback of a fault of the program goes to the log."""
    said = user_message(error)
    if said is None and not isinstance(error, ImportError):
        log.error("the export failed", exc_info=error)
    return said or one_line(f"{type(error).__name__}: {error}")
