"""Compile numba kernels, with a cache on disk that costs a recompilation and one line where it fails, never the run.

numba's own cache raises where an entry is damaged, the disk is full, or no folder can be written. Its public settings
(NUMBA_CACHE_DIR) do not change that, so the subclasses here use `numba.core.caching`, which is not documented:
tests/ops/test_kernel_cache.py fails if it changes.
"""

import hashlib
import logging
import pickle
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numba
from filelock import FileLock
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.serialize import dumps

log = logging.getLogger(__name__)
PATIENCE = 60  # seconds for another process to save a kernel
SETTING = "set NUMBA_CACHE_DIR to a folder with free space"


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`numba.njit` with these options and the cache."""

    def compiled(function: Callable[..., Any]) -> Any:
        dispatcher = numba.njit(**options)(function)
        try:
            dispatcher._cache = KernelCache(function)
        except RuntimeError:  # numba found no folder that it can write to
            _say(f"no folder for compiled kernels can be written; they are compiled again at each start: {SETTING}")
        return dispatcher

    return compiled


class _Checked(CompileResultCacheImpl):
    """Entries with a checksum: LLVM loads damaged machine code without an error."""

    def reduce(self, cres: Any) -> tuple[bytes, bytes]:
        content = dumps(super().reduce(cres))
        return hashlib.sha256(content).digest(), content

    def rebuild(self, target_context: Any, payload: tuple[bytes, bytes]) -> Any:
        digest, content = payload
        if hashlib.sha256(content).digest() != digest:
            raise ValueError("the checksum does not match")
        return super().rebuild(target_context, pickle.loads(content))


class KernelCache(FunctionCache):
    """The cache of one kernel."""

    _impl_class = _Checked

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The cached kernel for these types; None if there is none, or it is damaged."""
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # unpickling damaged bytes raises anything
            self._forget()
            _say(f"damaged compiled kernels in {self.cache_path} are compiled again ({type(error).__name__})")
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Save a kernel, as far as the disk allows."""
        try:
            # Two processes that save variants of one kernel at once would give both the same file.
            with FileLock(Path(self.cache_path, ".lock"), timeout=PATIENCE):
                super().save_overload(sig, data)
        except OSError as error:
            self._forget()  # the index may name an older file, which was not replaced
            _say(f"compiled kernels cannot be saved in {self.cache_path} ({error.strerror or error}): {SETTING}")

    def _forget(self) -> None:
        """Remove the index of the kernel's variants, without which numba reads none of them."""
        with suppress(OSError):
            Path(self.cache_path, f"{self._impl.filename_base}.nbi").unlink()


@cache
def _say(message: str) -> None:
    """Warn once per process."""
    log.warning("%s", message)
