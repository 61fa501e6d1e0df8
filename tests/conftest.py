"""How the tests run: one thread, one numba cache for all, no garbage collection of what stays, usual signals."""

import gc
import os
import signal
from pathlib import Path


def pytest_configure(config):
    """Give pytest-xdist's workers a numba cache of the repository's, child processes one thread, and signals their
    effect.

    Behind `nohup` and `&`, SIGHUP and SIGINT are ignored, also by child processes. Kernels are saved under a lock
    (`ops/kernel_cache.py`), so that the workers can share them.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker:
        os.environ["NUMBA_CACHE_DIR"] = str(Path(config.rootpath, ".pytest_cache", "numba"))
    if worker or not config.getoption("tx", None):  # not in the process that distributes the tests
        gc.disable()  # imported modules and collected tests are never garbage, and each collection visits them all
        config.pluginmanager.import_plugin("shared")


def pytest_collection_finish():
    gc.freeze()
    gc.enable()
