"""Which precision the machine at hand computes fast in."""

from __future__ import annotations

import torch


def native_bfloat16() -> bool:
    """Whether the GPU or the processor multiplies bfloat16 itself; where it does not, bfloat16 is many times slower."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported()
