"""Files of a run that is killed: hear each change before it is made, and compare the tables of two runs."""

import csv
import os
import sys
import threading
from pathlib import Path

MEASURED = ("speed/", "memory/", "seconds", "export_seconds")  # columns that differ between any two runs


class Writes:
    """Calls `then` before each change that this process makes to a file under `folder`, by audit events.

    Other threads wait with their changes meanwhile, but for one that they have been let through to just before.
    """

    events = ("os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")

    def __init__(self, folder, then):
        self.folder, self.then, self.busy, self.lock = str(folder), then, False, threading.RLock()
        sys.addaudithook(self._hear)  # permanent: Python cannot remove audit hooks

    def stop(self):
        self.then = None

    def _hear(self, event, args):
        if self.then is None:
            return
        writes = event in self.events or (event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if writes and isinstance(args[0], str | Path) and self.folder in str(Path(args[0]).absolute()):
            with self.lock:
                if self.busy or self.then is None:  # a change that `then` makes, or one after the end
                    return
                self.busy = True
                try:
                    self.then()
                finally:
                    self.busy = False


def rows(run):
    with (run / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if not k.startswith(MEASURED)} for row in csv.DictReader(file)]
