"""Replay a function of tensors as one CUDA graph: its kernels are launched together, without Python between them.

A network on a fast GPU waits for its launches (845 in a step of the pocket prior). Not run on a GPU yet.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from dreamfusion.types import Movable

_log = logging.getLogger(__name__)
WARMUP = 3  # calls before the capture, in which libraries choose their kernels and allocate
KEPT = 4  # graphs, each with its own memory: such as two sizes of image, with and without the unconditional branch
AGREED = 0.02  # largest difference of a replay from the function itself, as a share of its largest value


def replayable(tensor: Tensor) -> bool:
    """Whether a function of this tensor can be replayed: on CUDA, and without gradient."""
    return tensor.device.type == "cuda" and not torch.is_grad_enabled()


class CudaGraph:
    """A function of tensors without gradient, captured once for each set of shapes, types and other values.

    The function must neither read a value back nor depend on anything but its arguments and on memory that stays. An
    argument is a tensor, a hashable value, or a tuple or `Movable` of such; the result is a tuple of tensors.

    A function that cannot be captured, or whose first replay has other values, is called itself from then on; the log
    says why once.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], keep: Callable[[], object]) -> None:
        """`keep` returns what the function has read beside its arguments and that others may replace; it stays as long
        as the graph does.
        """
        self._function, self._keep = function, keep
        self._captured: dict[object, _Capture] = {}
        self._refused = False

    @torch.no_grad()
    def __call__(self, *arguments: Any) -> tuple[Tensor, ...]:
        if self._refused:
            return self._function(*arguments)
        tensors: dict[int, Tensor] = {}
        key = _structure(arguments, tensors)
        capture = self._captured.pop(key, None)
        if capture is None:
            while len(self._captured) >= KEPT:
                del self._captured[next(iter(self._captured))]  # the one used longest ago
            try:
                capture = _Capture(self._function, arguments, tensors, self._keep)
            except RuntimeError as error:
                _log.warning("guidance.cuda_graph is not used: %s", str(error).partition("\n")[0])
                self._refused = True
                self._captured.clear()
                return self._function(*arguments)
        self._captured[key] = capture
        return capture.replay(list(tensors.values()))


class _Capture:
    """One graph, with the memory of its inputs and of its result.

    Raises:
        RuntimeError: the function cannot be captured, or its first replay has other values.
    """

    def __init__(
        self,
        function: Callable[..., tuple[Tensor, ...]],
        arguments: tuple[Any, ...],
        tensors: dict[int, Tensor],
        keep: Callable[[], object],
    ) -> None:
        copies = {key: tensor.clone() for key, tensor in tensors.items()}
        self._given = list(copies.values())
        own = _with_tensors(arguments, copies)
        aside = torch.cuda.Stream()  # a capture sees the work of its own stream only
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARMUP):
                expected = function(*own)
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        # By default a call of any thread that a capture does not allow, such as one of a logger's, would end it.
        with _undone(), torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._result = function(*own)
        self._kept = keep()
        found = self.replay(list(tensors.values()))
        if not all(_agree(*pair) for pair in zip(found, expected, strict=True)):
            raise RuntimeError("its first replay differs from the prediction itself")

    def replay(self, tensors: list[Tensor]) -> tuple[Tensor, ...]:
        for dtype in dict.fromkeys(own.dtype for own in self._given):  # one launch for each
            pairs = [pair for pair in zip(self._given, tensors, strict=True) if pair[0].dtype == dtype]
            torch._foreach_copy_([own for own, _ in pairs], [given for _, given in pairs])
        self._graph.replay()
        return tuple(part.clone() for part in self._result)  # the next replay overwrites it


@contextmanager
def _undone() -> Iterator[None]:
    """Undo what a capture that fails leaves behind: its stream stays the current one, and before torch 2.13 the
    generator of the device raises at the next random number.
    """
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    state = generator.clone_state()
    with torch.cuda.stream(torch.cuda.current_stream()):
        try:
            yield
        except BaseException:
            generator.graphsafe_set_state(state)
            raise


def _agree(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() <= AGREED * expected.abs().max())


def _structure(argument: Any, tensors: dict[int, Tensor]) -> object:
    """What a graph of the argument depends on: all but the values of its tensors, which are added by their `id`."""
    if isinstance(argument, Tensor):
        tensors.setdefault(id(argument), argument)
        return list(tensors).index(id(argument)), argument.shape, argument.dtype, argument.device
    if isinstance(argument, tuple):
        return tuple(_structure(part, tensors) for part in argument)
    if isinstance(argument, Movable):
        names = [f.name for f in fields(argument)]  # type: ignore[arg-type]
        return type(argument), *(_structure(getattr(argument, name), tensors) for name in names)
    return argument


def _with_tensors(argument: Any, others: dict[int, Tensor]) -> Any:
    """The argument with other tensors, by the `id` of those they replace."""
    if isinstance(argument, Tensor):
        return others[id(argument)]
    if isinstance(argument, tuple):
        return tuple(_with_tensors(part, others) for part in argument)
    if isinstance(argument, Movable):
        return argument.with_each(lambda part: _with_tensors(part, others))
    return argument
