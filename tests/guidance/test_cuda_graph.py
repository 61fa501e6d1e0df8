"""Replays of a recorded function, with stand-ins for CUDA that record operations on the CPU, and repeat them."""

import gc
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from options import option
from pipelines import save_deepfloyd, save_mvdream, save_sd, save_sd3, save_sdxl, save_zero123
from test_pocket import SMALL, TINY
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dreamfusion.guidance import adapter
from dreamfusion.guidance.pocket import WEIGHTS
from dreamfusion.ops.cuda_graph import KEPT, CudaGraph, replayable
from dreamfusion.pocket.model.denoiser import PocketModel
from dreamfusion.types import Branch, TextEmbedding


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
        assert "lift_fresh" not in str(operation), "nor copy numbers to the device, such as a list of indices"
        result = operation(*arguments, **(settings or {}))
        self.graph.operations.append((operation, arguments, settings or {}, result))
        return result


def tensors(result):
    return [part for part in (result if isinstance(result, tuple | list) else [result]) if torch.is_tensor(part)]


class Stream:
    current = None

    def wait_stream(self, other):
        pass


@contextmanager
def within(stream):
    before, Stream.current = Stream.current, stream
    try:
        yield
    finally:
        Stream.current = before


class Generator:
    """The random numbers of a device; as torch's, it is of no use after a capture that failed."""

    state = "usable"

    def clone_state(self):
        return self.state

    def graphsafe_set_state(self, state):
        self.state = state


def refuse(*given, **options):
    raise RuntimeError("no copy of numbers\nto a device during a capture")


@pytest.fixture
def cuda(monkeypatch):
    """CUDA's graphs, on the CPU."""
    generator = Generator()

    @contextmanager
    def capture(graph, capture_error_mode):
        assert capture_error_mode == "thread_local"
        before, Stream.current, generator.state = Stream.current, Stream(), "capturing"
        with Recorder(graph), pytest.MonkeyPatch.context() as m:
            for owner, name in ((torch, "tensor"), (torch, "as_tensor"), (torch.Tensor, "new_tensor")):
                m.setattr(owner, name, refuse)
            yield
        Stream.current, generator.state = before, "usable"  # not after an error, as in torch

    stand_ins = {
        "Stream": Stream,
        "current_stream": lambda: Stream.current,
        "stream": within,
        "current_device": lambda: 0,
        "default_generators": (generator,),
        "CUDAGraph": Recorded,
        "graph": capture,
    }
    for name, value in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(Recorded, "made", 0)
    monkeypatch.setattr(Stream, "current", Stream())
    monkeypatch.setenv("DREAMFUSION_OPS", "torch")  # operations of torch alone are recorded


def nothing():
    return None


def test_a_replay_has_the_values_of_the_function_and_its_result_stays(cuda):
    calls = []

    def function(x, y):
        calls.append(None)
        return (x @ y).relu().sum(0) + x.mean(), y.double()

    graph, generator = CudaGraph(function, nothing), torch.Generator().manual_seed(0)
    results = []
    for _ in range(3):
        x, y = torch.randn(4, 5, generator=generator), torch.randn(5, 3, generator=generator)
        results.append((graph(x, y), function(x, y)))
    assert all(torch.equal(found, expected) for pairs in results for found, expected in zip(*pairs, strict=True))
    assert len(calls) == 4 + 3  # three to warm up, and the capture
    x, y = torch.ones(2, 5), torch.ones(5, 3)
    assert torch.equal(graph(x, y)[0], function(x, y)[0])
    assert Recorded.made == 2  # one for each set of shapes


def test_a_graph_depends_on_all_but_the_values_of_tensors(cuda):
    def function(branches, scale):
        first, second = branches
        return (first.text.states * (first.text.mask[..., None] * scale) + second.text.states,)

    def branch(value, **changes):
        return Branch(TextEmbedding(torch.full((2, 3, 4), value), torch.ones(2, 3, dtype=torch.bool), **changes))

    graph, one, other = CudaGraph(function, nothing), branch(1.0), branch(2.0)
    for pair, scale in (((one, other), 2), ((other, one), 2), ((one, branch(5.0)), 2)):
        assert torch.equal(graph(pair, scale)[0], function(pair, scale)[0])
    assert Recorded.made == 1
    assert torch.equal(graph((one, other), 3)[0], function((one, other), 3)[0])
    assert torch.equal(graph((one, one), 2)[0], function((one, one), 2)[0])  # one memory for both
    graph((one, branch(2.0, scene=1)), 2)
    graph((one, branch(2.0, pooled=torch.zeros(2, 1))), 2)
    assert Recorded.made == 5


def test_the_graphs_used_last_stay_and_with_them_what_they_have_read(cuda):
    memory = [torch.ones(1)]

    def function(x):
        return (x + memory[0],)

    graph = CudaGraph(function, lambda: memory[0])
    sizes = list(range(1, KEPT + 1))
    for size in (*sizes, 1):
        graph(torch.zeros(size))
    memory[0] = None  # another prompt's takes its place
    assert torch.equal(graph(torch.zeros(1))[0], torch.ones(1))
    memory[0] = torch.ones(1)
    graph(torch.zeros(KEPT + 1))
    assert Recorded.made == KEPT + 1
    graph(torch.zeros(1))
    assert Recorded.made == KEPT + 1
    graph(torch.zeros(2))  # it was the oldest
    assert Recorded.made == KEPT + 2


def test_a_function_that_cannot_be_captured_is_called_itself_and_the_log_says_so_once(cuda, caplog):
    def refused(x):
        return (x * torch.tensor(2.0),)

    def forgetful(x):
        return (x * calls.pop(0),)

    graph, x, stream = CudaGraph(refused, nothing), torch.ones(2), torch.cuda.current_stream()
    for _ in range(2):
        assert torch.equal(graph(x)[0], 2 * x)
    assert torch.cuda.current_stream() is stream and torch.cuda.default_generators[0].state == "usable"
    assert [record.message for record in caplog.records] == ["guidance.cuda_graph is not used: no copy of numbers"]
    calls, graph = [1.0, 2.0, 3.0, 4.0, 5.0], CudaGraph(forgetful, nothing)  # depends on more than its tensors
    assert torch.equal(graph(x)[0], 5 * x)
    assert caplog.records[-1].message.endswith("its first replay differs from the prediction itself")


def test_nothing_is_replayed_on_a_cpu_or_with_a_gradient():
    on_cuda = SimpleNamespace(device=torch.device("cuda"))
    assert not replayable(on_cuda)
    with torch.no_grad():
        assert replayable(on_cuda)
        assert not replayable(torch.zeros(1))


@pytest.fixture
def on_cuda(cuda, monkeypatch):
    """The tensors of the CPU count as those of CUDA."""
    monkeypatch.setattr(adapter, "replayable", lambda tensor: not torch.is_grad_enabled())


@pytest.fixture
def pocket_priors(tmp_path):
    """The same prior without and with a graph."""
    torch.manual_seed(0)
    PocketModel.create(TINY, {"cat": "cat", "dog": "dog"}, **SMALL).save(tmp_path)
    for part in ("text_encoder", "vocabulary.txt"):
        (tmp_path / part).symlink_to(WEIGHTS / part)
    return [option("guidance/pocket", weights=str(tmp_path), cuda_graph=on) for on in (False, True)]


def test_the_pocket_priors_predictions_are_the_same_with_a_graph(on_cuda, pocket_priors, cameras_at):
    """Also those of another prompt, in the same process."""
    graphed, generator, found = pocket_priors[1], torch.Generator().manual_seed(1), []
    texts = {
        name: [prior.encode_text([name, name, ""]) for prior in pocket_priors]
        for name in ("a cat", "a dog", "a cat on a dog")
    }
    cases = [("a cat", 64, 30.0), ("a cat", 64, 200.0), ("a cat", 128, 90.0), ("a dog", 64, 30.0)]
    for name, size, azimuth in [*cases, ("a cat on a dog", 64, 30.0), cases[0]]:
        noisy, timestep = torch.randn(2, 3, size, size, generator=generator), torch.tensor([100, 700])
        appearance = torch.rand(2, 2, generator=generator) * 2 - 1
        both = []
        for prior, text in zip(pocket_priors, texts[name], strict=True):
            own = Branch(text[torch.tensor([0, 1])], cameras_at([azimuth, azimuth + 50]), appearance)
            none = Branch(text[torch.tensor([2, 2])], own.cameras, appearance, unconditional=True)
            both.append(torch.stack(prior.denoise(noisy, timestep, [own, none])))
        torch.testing.assert_close(*both)
        found.append(both[1])
    assert (found[0] - found[1]).abs().max() > 1e-3 and (found[0] - found[3]).abs().max() > 1e-3
    assert Recorded.made == 4  # 64 and 128 pixels, and the other prompts
    untold = Branch(own.text)
    torch.testing.assert_close(*(prior.denoise(noisy, timestep, [untold])[0] for prior in pocket_priors))
    graphed.adapt(rank=2)
    graphed.denoise(noisy, timestep, [own])
    assert Recorded.made == 4  # the network reads back what to show; and an adapter changes it


class Outside(TorchDispatchMode):
    """Weak references to the memory that operations read and that none of them made."""

    def __init__(self):
        super().__init__()
        self.made, self.read = {}, {}

    def __torch_dispatch__(self, operation, types, arguments=(), settings=None):
        result = operation(*arguments, **(settings or {}))
        for part in filter(torch.is_tensor, tree_leaves((arguments, settings))):
            storage = part.untyped_storage()
            if storage._cdata not in self.made:
                self.read.setdefault(storage._cdata, StorageWeakRef(storage))
        self.made |= {part.untyped_storage()._cdata: part for part in tensors(result)}
        return result


def test_what_a_graph_reads_stays_when_other_prompts_and_sizes_follow(on_cuda, monkeypatch, pocket_priors, cameras_at):
    """A graph holds no memory but its own: the GPU would read what is written there next."""
    graphs = []

    @contextmanager
    def capture(graph, capture_error_mode):
        with Outside() as outside:
            yield
        graphs.append(outside.read)

    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(Recorded, "replay", lambda self: None)
    for name, size in (("a cat", 64), ("a cat", 128), ("a dog", 64), ("a cat on a dog", 64)):
        text = pocket_priors[1].encode_text([name])
        pocket_priors[1].denoise(torch.zeros(1, 3, size, size), torch.tensor([500]), [Branch(text, cameras_at([30.0]))])
    del text
    gc.collect()
    assert len(graphs) == 4 and all(graphs)
    assert not any(memory.expired() for read in graphs for memory in read.values())


def test_only_the_network_and_a_few_copies_are_left_of_a_prediction(on_cuda, pocket_priors, cameras_at):
    _, graphed = pocket_priors
    text, noisy = graphed.encode_text(["a cat"]), torch.zeros(1, 3, 64, 64)
    given = noisy, torch.tensor([500]), [Branch(text, cameras_at([30.0]), torch.zeros(1, 2))]
    graphed.denoise(*given)
    replay, Recorded.replay = Recorded.replay, lambda self: None
    try:
        left = SimpleNamespace(operations=[])
        with Recorder(left):
            graphed.denoise(*given)
    finally:
        Recorded.replay = replay
    assert sorted(str(operation) for operation, *_ in left.operations) == [
        "aten._foreach_copy_.default",  # integers
        "aten._foreach_copy_.default",  # numbers
        "aten._foreach_copy_.default",  # masks
        "aten.clone.default",
    ]


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "deepfloyd", "mvdream", "zero123"])
def test_predictions_of_downloaded_priors_are_the_same_with_a_graph(on_cuda, tmp_path, cameras_at, name):
    save = {
        "sd": save_sd,
        "sdxl": save_sdxl,
        "sd3": save_sd3,
        "deepfloyd": save_deepfloyd,
        "mvdream": save_mvdream,
        "zero123": save_zero123,
    }[name]
    others = {"mvdream": {"checkpoint": None}, "sd3": {"t5": False}, "zero123": {"resolution": 32}}.get(name, {})
    plain, graphed = (
        option(f"guidance/{name}", model=str(save(tmp_path / str(on))), cuda_graph=on, **others) for on in (False, True)
    )
    generator, views = torch.Generator().manual_seed(0), plain.views
    channels, side = plain._network.config.in_channels, plain._network.config.sample_size
    for turn in range(3):
        noisy = torch.randn(views, channels - plain.picture_channels, side, side, generator=generator)
        cameras, timestep = cameras_at([turn * 40.0 + 90 * view for view in range(views)]), torch.tensor([300 * turn])
        both = []
        for prior in (plain, graphed):
            if name == "zero123" and turn != 1:
                prior.look_at(torch.full((1, 3, 32, 32), 0.2 + 0.3 * turn), cameras_at([0.0]))
            text = prior.encode_text(["a cat"] * views)
            branches = [Branch(text, cameras), Branch(text, cameras, unconditional=True)]
            both.append(torch.stack(prior.denoise(noisy, timestep.expand(views), branches)))
        torch.testing.assert_close(*both)
    assert Recorded.made == (2 if name == "zero123" else 1)  # another picture is another memory
