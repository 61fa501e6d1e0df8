"""Spin-wait for other threads: a sleeping thread takes up to half a millisecond to wake up.

Used by `backend.run_parallel` at the end of each parallel operation.
"""

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

_ROUNDS = 1_000_000  # about a millisecond


@intrinsic
def _now(context: Any, flags: Any, k: Any) -> Any:
    """Atomically load flags[k], which another thread may have written."""

    def generate(ctx: Any, builder: Any, signature: Any, values: Any) -> Any:
        data = ctx.make_array(signature.args[0])(ctx, builder, values[0]).data
        return builder.load_atomic(builder.gep(data, [values[1]]), "acquire", 8)

    return types.int64(flags, types.int64), generate


@njit(nogil=True, cache=True)
def all_set(flags: np.ndarray) -> bool:
    """Whether all flags (int64) are set, or become so within about a millisecond."""
    done = 0
    for _ in range(_ROUNDS):
        while done < flags.size and _now(flags, done) != 0:
            done += 1
        if done == flags.size:
            return True
    return False
