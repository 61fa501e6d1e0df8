"""Build, run and check the kernels of a GPU in another process, with a time limit, before a run uses them.

A build can fail, hang at the lock of an interrupted one, or abort; a kernel can poison the GPU's context. There, all of
them cost this process one sentence. The verdicts are kept, so that only the first run with an installation waits. Each
operation has its own: a kernel that fails leaves the library's others in use, but for those that are checked after one
that poisons the context.
"""

import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
from filelock import FileLock

from dreamfusion.paths import CACHE

LIMIT = 60.0  # seconds of the check before a run; a build goes on from its finished files at the next one
STALE = 600.0  # seconds after which the lock of a build is that of an interrupted one
ROOT = Path(__file__).parents[2]
INSIDE = "DREAMFUSION_PROBE"  # set in the process that checks, which must not start another
SAID = "verdict: "
EVERY = "*"  # operation: those without a verdict of their own
PASSING = ("out of memory", "busy or unavailable")  # reasons of the moment: another process has the GPU
VERDICTS = CACHE / "kernels.json"


def failure(kernel: str, device: str, op: str = EVERY, limit: float = LIMIT, again: bool = False) -> str | None:
    """Why the kernels of a library cannot be used for an operation on a device of this type, or None.

    Args:
        kernel: an installed library.
        device: type of the device, not the CPU.
        op: operation that has this backend.
        limit: seconds.
        again: check even if there is a verdict.
    """
    reason = unfit(kernel)
    if reason is not None or INSIDE in os.environ:
        return reason
    found = _verdicts(kernel, device, limit, again)
    return found.get(op, found[EVERY]) or None


def _verdicts(kernel: str, device: str, limit: float, again: bool) -> dict[str, str]:
    """For each operation why it cannot be used, "" if it can; those of an earlier check if they were kept, which those
    for a reason of the moment are not.
    """
    key = _installation(kernel, device)
    with suppress(OSError):
        VERDICTS.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(VERDICTS.with_suffix(".lock"), timeout=2 * limit):  # the ranks of a machine check once
            verdicts = {} if again else _read()
            if key not in verdicts:
                verdicts = _read() | {key: _check(kernel, device, limit)}
                if not any(phrase in reason for reason in verdicts[key].values() for phrase in PASSING):
                    VERDICTS.write_text(json.dumps(verdicts, indent=1, allow_nan=False), encoding="utf-8")
            return verdicts[key]
    return _check(kernel, device, limit)  # no folder to keep the verdict in


def unfit(kernel: str) -> str | None:
    """Why a library has no kernels for this machine, whatever its build gives; None if it may have."""
    import torch

    if torch.version.hip is not None and kernel in ("tinycudann", "nerfacc"):
        return f"{kernel} has no kernels for ROCm"
    # nerfacc's wheel from PyPI has no kernels: it builds them at the first call, in minutes, if there is a compiler.
    if kernel == "nerfacc" and importlib.util.find_spec("nerfacc.csrc") is None and shutil.which("nvcc") is None:
        return "nerfacc has no built kernels, and there is no nvcc to build them"
    if kernel == "triton" and not c_compiler():
        return "triton compiles C at its first launch: no gcc or clang with Python.h here; apt install gcc python3-dev"
    return None


def c_compiler() -> bool:
    """Whether there is what Triton's first launch needs: a C compiler, and Python's headers."""
    found = "CC" in os.environ or shutil.which("gcc") or shutil.which("clang")
    return bool(found) and Path(sysconfig.get_path("include"), "Python.h").is_file()


def main(kernel: str, device: str) -> Iterator[tuple[str, str]]:
    """Load the kernels and compare them with the reference: each operation, and why it cannot be used, "" if it can."""
    try:
        importlib.import_module(kernel)
        if kernel == "nerfacc":
            _remove_lock(lambda made: time.time() - made > STALE)
            if importlib.import_module("nerfacc.cuda._backend")._C is None:
                yield EVERY, "nerfacc's kernels were not built"
                return
    except Exception as error:  # a build raises anything
        yield EVERY, f"{kernel} does not load ({type(error).__name__}: {' '.join(str(error).split())[:300]})"
        return
    import torch

    from dreamfusion.ops.parity import disagreement, operations

    if torch.device(device).index is not None:
        torch.cuda.set_device(device)
    for op in operations(kernel, torch.device(device)):
        reason = disagreement(op, kernel, torch.device(device))
        yield op, "" if reason is None else f"{kernel}: {reason}"
    yield EVERY, ""


def _check(kernel: str, device: str, limit: float) -> dict[str, str]:
    """`main` in another process; where it ends early, the end is the reason for the operations that are left."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]), INSIDE: "1"}
    command = [sys.executable, "-m", "dreamfusion.ops.probe", kernel, _current(device)]
    began, late = time.time(), None
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        try:
            said, errors = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            for one in (*psutil.Process(process.pid).children(recursive=True), process):  # compilers too
                with suppress(psutil.Error, OSError):
                    one.kill()
            _remove_lock(lambda made: made >= began)
            said, errors = process.communicate()
            late = (
                f"the kernels of {kernel} were not built and checked within {limit:.0f} s; "
                "type mode=doctor to continue their build"
            )
    last = (errors.strip().splitlines() or ["no message"])[-1][:300]
    ended = f"the check of {kernel} ended with status {process.returncode} ({last})"
    lines = [line.removeprefix(SAID).partition(" ") for line in said.splitlines() if line.startswith(SAID)]
    return {EVERY: late or ended} | {op: reason for op, _, reason in lines}


def _current(device: str) -> str:
    """The device of this type that this process uses, such as "cuda:1"."""
    import torch

    return f"cuda:{torch.cuda.current_device()}" if device == "cuda" and torch.cuda.is_available() else device


def _remove_lock(is_left: Callable[[float], bool]) -> None:
    """Remove the lock of nerfacc's build folder, which torch never does after an interruption, by when it was made."""
    from torch.utils.cpp_extension import _get_build_directory

    with suppress(OSError):
        lock = Path(_get_build_directory("nerfacc_cuda", verbose=False), "lock")
        if is_left(lock.stat().st_mtime):
            lock.unlink()


def _installation(kernel: str, device: str) -> str:
    """A hash of what a verdict depends on: the library's files, versions, compiler and GPU."""
    import torch

    spec, nvcc = importlib.util.find_spec(kernel), shutil.which("nvcc")
    files = [Path(path) for path in (spec.origin if spec else None, nvcc) if path]
    name = torch.cuda.get_device_name() if device == "cuda" and torch.cuda.is_available() else device
    parts = [kernel, name, sys.version, torch.__version__, torch.version.cuda, torch.version.hip]
    parts += [f"{file} {file.stat().st_mtime}" for file in files if file.exists()]
    parts += [str(max(file.stat().st_mtime for file in Path(__file__).parent.rglob("*.py")))]  # of our own kernels
    return f"{kernel} {hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"


def _read() -> dict[str, dict[str, str]]:
    try:
        return dict(json.loads(VERDICTS.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


if __name__ == "__main__":
    for found in main(*sys.argv[1:]):
        print(SAID + " ".join(found), flush=True)
