"""Constants on a device, copied there once: a tensor made from numbers at every step waits for the device each time."""

from functools import cache

import torch
from torch import Tensor


@cache  # a recorded graph goes on reading them
def constant(values: tuple[float, ...], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """(N,) the values; do not change the tensor."""
    return torch.tensor(values, dtype=dtype, device=device)
