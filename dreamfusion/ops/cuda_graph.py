"""Replay a function of tensors as one CUDA graph: its kernels are launched together, without Python between them.

A small network on a fast GPU waits for its launches (845 in a step of the pocket prior). Not run on a GPU yet.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

WARMUP = 3  # calls before the capture, in which libraries choose their kernels and allocate


def replayable(tensor: Tensor) -> bool:
    """Whether a function of this tensor can be replayed: on CUDA, and without gradient."""
    return tensor.device.type == "cuda" and not torch.is_grad_enabled()


class CudaGraph:
    """A function of tensors without gradient, captured once for each set of shapes and types.

    The function must neither read a value back nor depend on anything but its tensors and on memory that stays.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self._function = function
        self._captured: dict[object, _Capture] = {}

    @torch.no_grad()
    def __call__(self, *tensors: Tensor) -> Tensor:
        key = tuple((tensor.shape, tensor.dtype, tensor.device) for tensor in tensors)
        if key not in self._captured:
            self._captured[key] = _Capture(self._function, tensors)
        return self._captured[key].replay(tensors)


class _Capture:
    """One graph, with the memory of its inputs and of its result."""

    def __init__(self, function: Callable[..., Tensor], tensors: Sequence[Tensor]) -> None:
        self._given = [tensor.clone() for tensor in tensors]
        aside = torch.cuda.Stream()  # a capture sees the work of its own stream only
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARMUP):
                function(*self._given)
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._result = function(*self._given)

    def replay(self, tensors: Sequence[Tensor]) -> Tensor:
        for own, tensor in zip(self._given, tensors, strict=True):
            own.copy_(tensor)
        self._graph.replay()
        return self._result.clone()  # the next replay overwrites it
