"""Replays of a recorded function, with stand-ins for CUDA that record operations on the CPU, and repeat them."""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch
from options import option
from test_pocket import SMALL, TINY
from torch.utils._python_dispatch import TorchDispatchMode

from dreamfusion.guidance import pocket
from dreamfusion.guidance.pocket import WEIGHTS
from dreamfusion.ops.cuda_graph import CudaGraph, replayable
from dreamfusion.pocket.model.denoiser import PocketModel
from dreamfusion.types import Branch


class Recorded:
    """A graph: operations, their inputs and the memory of their results."""

    made = 0

    def __init__(self):
        Recorded.made += 1
        self.operations = []

    def replay(self):
        for operation, arguments, settings, result in self.operations:
            again = operation(*arguments, **settings)
            for old, new in zip(tensors(result), tensors(again), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Recorder(TorchDispatchMode):
    def __init__(self, graph):
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, operation, types, arguments=(), settings=None):
        assert "local_scalar" not in str(operation), "a capture cannot read a value back"
        result = operation(*arguments, **(settings or {}))
        self.graph.operations.append((operation, arguments, settings or {}, result))
        return result


def tensors(result):
    return [part for part in (result if isinstance(result, tuple | list) else [result]) if torch.is_tensor(part)]


class Stream:
    def wait_stream(self, other):
        pass


@pytest.fixture
def cuda(monkeypatch):
    """CUDA's graphs, on the CPU."""

    @contextmanager
    def capture(graph):
        with Recorder(graph):
            yield

    stand_ins = {
        "Stream": Stream,
        "current_stream": Stream,
        "stream": lambda stream: nullcontext(),
        "CUDAGraph": Recorded,
        "graph": capture,
    }
    for name, value in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(Recorded, "made", 0)


def test_a_replay_has_the_values_of_the_function_and_its_result_stays(cuda):
    calls = []

    def function(x, y):
        calls.append(None)
        return (x @ y).relu().sum(0) + x.mean()

    graph, generator = CudaGraph(function), torch.Generator().manual_seed(0)
    results = []
    for _ in range(3):
        x, y = torch.randn(4, 5, generator=generator), torch.randn(5, 3, generator=generator)
        results.append((graph(x, y), (x @ y).relu().sum(0) + x.mean()))
    assert all(torch.equal(found, expected) for found, expected in results)
    assert len(calls) == 4  # three to warm up, and the capture
    x, y = torch.ones(2, 5), torch.ones(5, 3)
    assert torch.equal(graph(x, y), function(x, y))
    assert Recorded.made == 2  # one for each set of shapes


def test_nothing_is_replayed_on_a_cpu_or_with_a_gradient():
    on_cuda = SimpleNamespace(device=torch.device("cuda"))
    assert not replayable(on_cuda)
    with torch.no_grad():
        assert replayable(on_cuda)
        assert not replayable(torch.zeros(1))


def test_the_pocket_priors_predictions_are_the_same_with_a_graph(cuda, monkeypatch, tmp_path, cameras_at):
    torch.manual_seed(0)
    PocketModel.create(TINY, {"cat": "cat", "dog": "dog"}, **SMALL).save(tmp_path)
    for part in ("text_encoder", "vocabulary.txt"):
        (tmp_path / part).symlink_to(WEIGHTS / part)
    plain, graphed = (option("guidance/pocket", weights=str(tmp_path), cuda_graph=on) for on in (False, True))
    generator, found = torch.Generator().manual_seed(1), []
    monkeypatch.setattr(pocket, "replayable", lambda tensor: not torch.is_grad_enabled())
    texts = [prior.encode_text(["a cat", "a cat"]) for prior in (plain, graphed)]
    for size, azimuth in ((64, 30.0), (64, 200.0), (128, 90.0)):
        noisy, timestep = torch.randn(2, 3, size, size, generator=generator), torch.tensor([100, 700])
        cameras = cameras_at([azimuth, azimuth + 50])
        both = zip((plain, graphed), texts, strict=True)
        one, other = (prior.denoise(noisy, timestep, [Branch(text, cameras)])[0] for prior, text in both)
        torch.testing.assert_close(one, other)
        found.append(other)
    assert (found[0] - found[1]).abs().max() > 1e-3
    assert Recorded.made == 2  # 64 and 128 pixels
    graphed.adapt(rank=2)
    graphed.denoise(noisy, timestep, [Branch(texts[1], cameras)])
    assert Recorded.made == 2  # an adapter changes the network
