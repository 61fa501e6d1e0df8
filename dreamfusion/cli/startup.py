"""Settings of the process at the beginning of a command: waiting threads, and the garbage collector during imports.

Light: imports neither torch nor numpy. Everything works without this module, slower.
"""

from __future__ import annotations

import gc
import os
import sys

SPIN = 3_000  # iterations, about 0.1 ms, that an idle OpenMP thread waits actively for more work before it sleeps


def quick_start() -> None:
    """Call before the imports of a process's first run; `resume_gc` comes after them."""
    if "OMP_WAIT_POLICY" not in os.environ:
        # Read by GNU's OpenMP when torch is loaded; its default of milliseconds takes that core from our own threads.
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN))
    if "lightning" not in sys.modules:
        gc.disable()  # imported modules are never garbage, and collecting took a fifth of the import time


def resume_gc() -> None:
    """Exempt all objects so far from garbage collection, and enable it again."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
