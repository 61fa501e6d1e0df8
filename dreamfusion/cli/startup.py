"""Process settings that speed up the start of a command: OpenMP spin time, and no garbage collection during imports.

Imports neither torch nor numpy.
"""

import gc
import os
import sys

SPIN = 3_000  # iterations, about 0.1 ms, that an idle OpenMP thread spins before it sleeps


def quick_start() -> None:
    """Apply the settings; call before the heavy imports, and `resume_gc` after them."""
    if "OMP_WAIT_POLICY" not in os.environ:
        # GNU OpenMP reads this when torch loads; its default of milliseconds would take cores from our own threads.
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN))
    if "lightning" not in sys.modules:
        gc.disable()  # imported modules are never garbage, and collecting took a fifth of the import time


def resume_gc() -> None:
    """Exempt all existing objects from garbage collection, and enable it again."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
