"""Launch Triton kernels: on a GPU, or on a CPU by Triton's interpreter, which tests the kernels without a GPU.

The interpreter runs if TRITON_INTERPRET=1 is set when triton is imported. It takes milliseconds per program, hence
larger tiles. Only the Triton backends import this module: the rest runs without triton.
"""

from typing import Any

import torch
import triton

_INTERPRETED = bool(triton.knobs.runtime.interpret)


def tile(size: int, interpreted: int) -> int:
    """Elements of a program's tile, a power of 2."""
    return interpreted if _INTERPRETED else size


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **settings: Any) -> None:
    """Run a program of the kernel for each cell of `grid`, on the device of the first argument, a tensor."""
    if 0 not in grid:  # CUDA refuses an empty grid
        with torch.cuda.device_of(arguments[0]):  # triton launches on the current device; no-op for a CPU
            kernel[grid](*arguments, **settings)
