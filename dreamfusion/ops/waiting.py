"""Spin-wait for other threads: a sleeping thread takes up to half a millisecond to wake up.

Used by `backend.run_parallel` at the end of each parallel operation.
"""

from typing import Any

import numpy as np
from numba.types import int64

from dreamfusion.ops.intrinsics import element, emits
from dreamfusion.ops.kernel_cache import njit

_ROUNDS = 1_000_000  # about a millisecond


@emits(int64, None, int64)
def _now(ctx: Any, builder: Any, kinds: Any, flags: Any, k: Any) -> Any:
    """Atomically load flags[k], which another thread may have written."""
    return builder.load_atomic(element(ctx, builder, kinds[0], flags, k), "acquire", 8)


@njit(nogil=True)
def all_set(flags: np.ndarray) -> bool:
    """Whether all flags (int64) are set, or become so within about a millisecond."""
    done = 0
    for _ in range(_ROUNDS):
        while done < flags.size and _now(flags, done) != 0:
            done += 1
        if done == flags.size:
            return True
    return False
