"""Detects the precision in which this machine computes fast."""

import os

import torch

from dreamfusion.error import UserError

PRECISIONS = ("auto", "bfloat16", "float32")


def native_bfloat16() -> bool:
    """Whether the GPU or the processor multiplies bfloat16 natively; emulation is many times slower."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return processor_bfloat16()


def processor_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 natively (AVX512-BF16)."""
    return torch.cpu._is_avx512_bf16_supported()


def kernel_precision(choice: str) -> str:
    """Resolve one of PRECISIONS to the precision of the CPU kernels, "bfloat16" or "float32".

    Raises:
        ValueError: if `choice` is not in PRECISIONS.
        UserError: for "bfloat16" on a processor without AVX512-BF16.
    """
    if choice not in PRECISIONS:
        raise ValueError(f"precision is {choice!r}, allowed are {', '.join(PRECISIONS)}")
    # numba may be set to target another processor; compiling instructions that the target lacks never returns.
    has = processor_bfloat16() and not (os.environ.get("NUMBA_CPU_NAME") or os.environ.get("NUMBA_CPU_FEATURES"))
    if choice == "bfloat16" and not has:
        raise UserError(
            "field.precision is bfloat16, but this processor, or the one that NUMBA_CPU_NAME names, lacks AVX512-BF16; "
            "type field.precision=auto"
        )
    return "bfloat16" if has and choice != "float32" else "float32"
