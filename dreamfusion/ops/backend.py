"""Selects the implementation of each operation, and provides the thread pool of the CPU kernels.

The device decides first, then the setting `ops`, then what is installed and passes its check (`probe.py`). Without a
kernel the torch reference runs, with one warning.
"""

import importlib
import importlib.util
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from dreamfusion.error import UserError

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

_KERNELS: dict[str, dict[str, tuple[str, ...]]] = {  # operation -> device type -> kernels, the fastest first
    "hash_encode": {"cpu": ("numba", "triton"), "cuda": ("tinycudann", "triton")},
    "hash_field": {"cpu": ("numba", "triton"), "cuda": ("tinycudann", "triton")},  # but numba: over its hash_encode
    "march": {"cpu": ("numba", "triton"), "cuda": ("nerfacc", "triton")},
    "composite": {"cpu": ("numba", "triton"), "cuda": ("nerfacc", "triton")},
    "render_feature_volume": {"cpu": ("numba", "triton"), "cuda": ("triton",)},
    "rasterize": {"cpu": ("numba", "triton"), "cuda": ("nvdiffrast", "triton")},
    "splat": {"cpu": ("numba", "triton"), "cuda": ("triton",)},
}
# The module of a backend in the operation's folder.
_FILES = {
    "torch": "reference",
    "numba": "cpu",
    "triton": "triton",
    "tinycudann": "cuda",
    "nerfacc": "cuda",
    "nvdiffrast": "cuda",
}
_INSTALL = {
    "numba": "pip install numba",
    "nerfacc": "pip install nerfacc, and a CUDA toolkit whose nvcc is on the PATH",
    "tinycudann": 'pip install --no-build-isolation "git+https://github.com/NVlabs/tiny-cuda-nn#subdirectory=bindings/torch"',
}
# Kernels that sum gradients by atomic additions, in an order that differs from run to run.
ATOMIC = {
    ("hash_encode", "tinycudann"),
    ("hash_encode", "triton"),
    ("hash_field", "tinycudann"),
    ("hash_field", "triton"),
    ("composite", "nerfacc"),
    ("render_feature_volume", "triton"),
    ("rasterize", "nvdiffrast"),
}
CHOICES = ("auto", *_FILES)  # of the setting `ops`
_VARIABLE = "DREAMFUSION_OPS"  # the setting, also for the processes that this one starts
_GIVEN = os.environ.get(_VARIABLE, "auto")  # by the user
_threads: int | None = None  # of the kernels; None: as many as torch's, and nothing is deterministic
_PIECES = 4  # spans per thread
_SUMS = 32  # spans of a sum over points or samples
_FEW = 16_384  # points or samples; with fewer, waking other threads costs more than they save (1 ms)


def prefer(name: str) -> None:
    """Apply the setting `ops`: the backend of every operation that has it on its device; "auto" is the fastest.

    Raises:
        UserError: there is no such backend.
    """
    if name not in CHOICES:
        raise UserError(f"ops is {name}; type ops={'|'.join(CHOICES)}")
    os.environ[_VARIABLE] = _GIVEN if name == "auto" else name


def make_deterministic(wanted: bool) -> None:
    """Apply the setting `deterministic`: the same bits from run to run, and on a CPU for any number of threads.

    Torch's own operations run in one thread then: their sums, products, convolutions and the ends of their vectors
    depend on the number. The kernels here use all threads and give the same bits for any number of them.
    """
    global _threads
    if wanted == (_threads is not None):
        return
    if wanted:
        _threads = torch.get_num_threads()
        torch.set_num_threads(1)
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read at the first product on a GPU
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time
    else:
        torch.set_num_threads(_threads)  # type: ignore[arg-type]
        _threads = None
    torch.use_deterministic_algorithms(wanted)  # convolutions of cuDNN included


def threads() -> int:
    """Number of threads of the CPU kernels."""
    return _threads or torch.get_num_threads()


def choose(op: str, device: torch.device, requested: str | None = None) -> str:
    """Return the backend of `op` on `device`: "torch" or a kernel library.

    Order of precedence: `requested`, the setting `ops` if the operation has it on the device, the fastest that works.

    Raises:
        ValueError: if the request names no backend of this operation on this device, or the setting none at all.
        RuntimeError: if the requested kernel cannot be used.
        UserError: if that of the setting cannot.
    """
    return _choose(op, device.type, requested, os.environ.get(_VARIABLE, "auto"), _threads is not None)


def backends(op: str, device: torch.device) -> tuple[str, ...]:
    """The backends that `op` has on `device`, the fastest first, whether or not they can be used."""
    return (*_KERNELS[op].get(device.type, ()), "torch")


def implementation(package: str, op: str, device: torch.device, requested: str | None, *tensors: Tensor) -> Any:
    """Return the module of the operation's folder `package` that holds the chosen backend.

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
    return importlib.import_module(f"{package}.{_FILES[chosen]}")


@cache
def missing(kernel: str, device: str, op: str) -> str | None:
    """Reason why a kernel library cannot be used for an operation on a device of this type, or None.

    On a GPU the kernels are first built, run and compared with the reference in another process, see `probe.failure`.
    """
    if importlib.util.find_spec(kernel) is None:
        return f"{kernel} is not installed"
    if kernel == "triton" and device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        return "triton needs a GPU; TRITON_INTERPRET=1 runs it on a CPU, slowly, for tests"
    if device != "cpu":
        from dreamfusion.ops.probe import failure  # imports this module

        reason = failure(kernel, device, op)
        if reason is not None:
            return reason
    try:
        importlib.import_module(kernel)
    except Exception as error:  # tinycudann raises OSError on a GPU that it was not built for
        return f"{kernel} does not import ({error})"
    return None


def widest_float(device: torch.device) -> torch.dtype:
    """Return float64, or float32 on Apple GPUs, which have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def parts(size: int) -> int:
    """Number of threads for `size` points or samples: all, or 1 below the threshold."""
    return 1 if size < _FEW else threads()


def spans(count: int, size: int, multiple: int = 1) -> list[tuple[int, int]]:
    """Split `count` items (`size` points in all) into [begin, end) spans at multiples of `multiple`; one for a single
    thread, else several per thread, so that slow threads process fewer.
    """
    return _split(count, 1 if parts(size) == 1 else _PIECES * parts(size), multiple)


def sum_spans(count: int, multiple: int = 1) -> list[tuple[int, int]]:
    """Spans of `count` items as of `spans`, the same for any number of threads: their sums are added in their order."""
    return _split(count, 1 if count < _FEW else _SUMS, multiple)


def _split(count: int, pieces: int, multiple: int) -> list[tuple[int, int]]:
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

    flags = np.zeros((min(threads(), len(items)), 1), np.int64)
    others = [_pool(threads()).submit(work, flag) for flag in flags[1:]]
    work(flags[0])
    for other, flag in zip(others, flags[1:], strict=True):
        flag[0] |= other.cancel()  # never started, and no items are left
    if not all_set(flags[:, 0]):  # also if this thread failed: the others still write into its arrays
        wait(others)
    if errors:
        raise errors[0]


@cache
def _choose(op: str, device: str, requested: str | None, preferred: str, deterministic: bool) -> str:
    kernels = _KERNELS[op].get(device, ())
    if preferred not in CHOICES:
        raise ValueError(f"{_VARIABLE} is {preferred!r}, allowed are {', '.join(CHOICES)}")
    if requested is not None and requested not in (*kernels, "torch"):
        raise ValueError(f"{op} has no backend {requested!r} on {device}, allowed are {', '.join(('torch', *kernels))}")
    wanted = requested or (preferred if preferred in (*kernels, "torch") else None)
    reasons: dict[str, str] = {}
    for kernel in kernels if wanted is None else (wanted,):
        reason = _unusable(op, kernel, device, deterministic)
        if reason is None:
            break
        reasons[kernel] = reason
    else:
        kernel = "torch"
    if reasons and requested is not None:
        raise RuntimeError(f"{op}: backend {requested!r} was requested, but {reasons[requested]}")
    if reasons and wanted is not None:
        raise UserError(f"ops={wanted}, but {reasons[wanted]}; type ops=auto for the fastest that works")
    if reasons and kernel == "torch":
        _log.warning("%s runs on the slow torch reference: %s", op, "; ".join(reasons.values()))
    for reason in reasons.values() if kernel != "torch" else ():
        _say(reason)
    _log.info("%s on %s: %s", op, device, kernel)
    return kernel


def _unusable(op: str, kernel: str, device: str, deterministic: bool) -> str | None:
    """Reason why a backend cannot be used, or None."""
    if kernel == "torch":
        return None
    if deterministic and (op, kernel) in ATOMIC:
        return f"the sums of {kernel} vary in the last bits, and deterministic=true"
    reason = missing(kernel, device, op)
    return f"{reason}; to install: {_INSTALL[kernel]}" if reason and kernel in _INSTALL else reason


@cache
def _say(message: str) -> None:
    """Log once per process."""
    _log.info("%s", message)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="dreamfusion-ops")


if hasattr(os, "register_at_fork"):  # threads do not survive a fork; the child starts its own pool
    os.register_at_fork(after_in_child=_pool.cache_clear)
