"""Selects the implementation of each operation, and provides the thread pool of the CPU kernels.

The device decides first, then the installed libraries. Without a kernel the torch reference runs, with one warning.
"""

import importlib
import importlib.util
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

_KERNELS = {  # operation -> device type -> kernel library; every device has the torch reference
    "hash_encode": {"cpu": "numba", "cuda": "tinycudann"},
    "hash_field": {"cpu": "numba"},  # elsewhere: the composition over the device's hash_encode
    "march": {"cpu": "numba", "cuda": "nerfacc"},
    "composite": {"cpu": "numba", "cuda": "nerfacc"},
    "render_feature_volume": {"cpu": "numba"},
}
_FILES = {"torch": "reference", "numba": "cpu"}  # the module of a backend in the operation's folder, by default cuda
_INSTALL = {
    "numba": "pip install numba",
    "nerfacc": "pip install nerfacc, and a CUDA toolkit whose nvcc is on the PATH",
    "tinycudann": 'pip install --no-build-isolation "git+https://github.com/NVlabs/tiny-cuda-nn#subdirectory=bindings/torch"',
}
_PIECES = 4  # spans per thread
_FEW = 16_384  # points or samples; with fewer, waking other threads costs more than they save (1 ms)


def choose(op: str, device: torch.device, requested: str | None = None) -> str:
    """Return the backend of `op` on `device`: "torch", "numba", "tinycudann" or "nerfacc".

    Order of precedence: `requested`, the environment (DREAMFUSION_OPS=torch forces the reference), the device's kernel.

    Raises:
        ValueError: if the request, or the environment, names no backend of this operation on this device.
        RuntimeError: if the requested kernel is not installed.
    """
    return _choose(op, device.type, requested, os.environ.get("DREAMFUSION_OPS", "auto"))


def implementation(package: str, op: str, device: torch.device, requested: str | None, *tensors: Tensor) -> Any:
    """Return the module of the operation's folder `package` that holds the chosen backend: reference, cpu or cuda.

    Raises:
        TypeError: if a kernel is given any of `tensors` that is not float32.
        ValueError, RuntimeError: as `choose`.
    """
    chosen = choose(op, device, requested)
    for tensor in tensors:
        if chosen != "torch" and tensor.dtype != torch.float32:
            raise TypeError(
                f"{op}: backend {chosen!r} takes torch.float32, got {tensor.dtype}; backend='torch' takes any float"
            )
    return importlib.import_module(f"{package}.{_FILES.get(chosen, 'cuda')}")


@cache
def missing(kernel: str) -> str | None:
    """Reason why a kernel library cannot be used, or None. Call only for libraries that fit the device."""
    if importlib.util.find_spec(kernel) is None:
        return f"{kernel} is not installed"
    try:
        importlib.import_module(kernel)
    except (ImportError, OSError) as error:  # tinycudann raises OSError on a GPU that it was not built for
        return f"{kernel} does not import ({error})"
    # nerfacc's wheel from PyPI has no kernels: it builds them at the first call, in minutes, if there is a compiler.
    if kernel == "nerfacc" and importlib.util.find_spec("nerfacc.csrc") is None and shutil.which("nvcc") is None:
        return "nerfacc has no built kernels, and there is no nvcc to build them"
    return None


def widest_float(device: torch.device) -> torch.dtype:
    """Return float64, or float32 on Apple GPUs, which have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def parts(size: int) -> int:
    """Number of threads for `size` points or samples: all of torch's, or 1 below the threshold."""
    return 1 if size < _FEW else torch.get_num_threads()


def spans(count: int, size: int, multiple: int = 1) -> list[tuple[int, int]]:
    """Split `count` items (`size` points in all) into [begin, end) spans at multiples of `multiple`; one for a single
    thread, else several per thread, so that slow threads process fewer.
    """
    pieces = 1 if parts(size) == 1 else _PIECES * parts(size)
    length = -(-count // (pieces * multiple)) * multiple
    return [(begin, min(begin + length, count)) for begin in range(0, count, max(length, 1))]


def run_parallel(task: Callable[[_T], object], items: Sequence[_T]) -> None:
    """Call `task` on each item, in this thread and a thread pool with dynamic scheduling; tasks share no output.

    Uses Python threads instead of numba's, which break a later fork() and so every DataLoader worker. Each item is one
    kernel call without the GIL: a thread that must wait for another's Python code may wait for milliseconds.
    """
    if len(items) < 2:
        for item in items:
            task(item)
        return
    from dreamfusion.ops.waiting import all_set  # imports numba, so only at the first parallel call

    left = iter(items)  # shared; advanced under the GIL
    errors: list[BaseException] = []

    def work(ended: np.ndarray) -> None:
        try:
            for item in left:
                task(item)
        except BaseException as error:
            errors.append(error)
        ended[0] = 1

    threads = torch.get_num_threads()
    flags = np.zeros((min(threads, len(items)), 1), np.int64)
    others = [_pool(threads).submit(work, flag) for flag in flags[1:]]
    work(flags[0])
    for other, flag in zip(others, flags[1:], strict=True):
        flag[0] |= other.cancel()  # never started, and no items are left
    if not all_set(flags[:, 0]):  # also if this thread failed: the others still write into its arrays
        wait(others)
    if errors:
        raise errors[0]


@cache
def _choose(op: str, device: str, requested: str | None, environment: str) -> str:
    kernel = _KERNELS[op].get(device)
    allowed = ("torch",) if kernel is None else ("torch", kernel)
    if environment not in ("auto", "torch"):
        raise ValueError(f"DREAMFUSION_OPS is {environment!r}, allowed are 'auto' and 'torch'")
    if requested is not None and requested not in allowed:
        raise ValueError(f"{op} has no backend {requested!r} on {device}, allowed are {', '.join(allowed)}")
    chosen = requested or ("torch" if environment == "torch" or kernel is None else kernel)
    reason = None if chosen == "torch" else missing(chosen)
    if reason is not None and requested is not None:
        raise RuntimeError(f"{op}: backend {chosen!r} was requested, but {reason}; to install: {_INSTALL[chosen]}")
    if reason is not None:
        _log.warning("%s runs on the slow torch reference: %s; to install: %s", op, reason, _INSTALL[chosen])
        chosen = "torch"
    _log.info("%s on %s: %s", op, device, chosen)
    return chosen


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="dreamfusion-ops")


if hasattr(os, "register_at_fork"):  # threads do not survive a fork; the child starts its own pool
    os.register_at_fork(after_in_child=_pool.cache_clear)
