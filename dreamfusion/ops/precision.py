"""Which precision the machine at hand computes fast in."""

from __future__ import annotations

import torch

PRECISIONS = ("auto", "bfloat16", "float32")


def native_bfloat16() -> bool:
    """Whether the GPU or the processor multiplies bfloat16 itself; where it does not, bfloat16 is many times slower."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return processor_bfloat16()


def processor_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself (AVX512-BF16)."""
    return torch.cpu._is_avx512_bf16_supported()


def kernel_precision(choice: str) -> str:
    """What our CPU kernels multiply in, "bfloat16" or "float32", for one of PRECISIONS.

    Raises:
        ValueError: if it is none of them.
        RuntimeError: for "bfloat16" on a processor without it.
    """
    if choice not in PRECISIONS:
        raise ValueError(f"precision is {choice!r}, allowed are {', '.join(PRECISIONS)}")
    if choice == "bfloat16" and not processor_bfloat16():
        raise RuntimeError("precision is 'bfloat16', but this processor has no AVX512-BF16; type 'auto' or 'float32'")
    return "float32" if choice == "float32" or not processor_bfloat16() else "bfloat16"
