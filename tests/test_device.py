"""A training step on a device that is not there: torch's meta tensors, which stand for a GPU's, and have no values.

Operations check that their tensors are on one device. Reading a value, an output whose size depends on values, and
copies between devices are what make the host wait.
"""

import ast
import contextlib
import copy
import traceback
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from options import option
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from training import train

import dreamfusion
from dreamfusion import system as system_module
from dreamfusion.guidance import prior_cache
from dreamfusion.ops import backend
from dreamfusion.ops.composite import reference as composite_reference
from dreamfusion.ops.constants import constant
from dreamfusion.ops.hash_grid import reference as hash_grid_reference
from dreamfusion.ops.march import reference
from dreamfusion.pocket.model.denoiser import WHITE
from dreamfusion.randomness import Stream, chance, step_seed
from dreamfusion.scene.lighting import Lighting
from dreamfusion.scene.nerf import occupancy
from dreamfusion.scene.shading import ALBEDO, LAMBERTIAN
from dreamfusion.system import DreamFusion
from dreamfusion.training.assemble import assemble
from dreamfusion.training.metrics import Metrics
from dreamfusion.training.progress import figures

META = torch.device("meta")
READS = ("_local_scalar_dense", "nonzero", "bincount", "masked_select", "unique", "equal", "is_nonzero")
STEPS = 8  # samples on each ray of the stand-in for march


class Waits(TorchDispatchMode):
    """Records the operations that make the host wait for the device."""

    found: ClassVar[list[str]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name, kwargs = function.overloadpacket.__name__, kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        sides = {tensor.device.type for tensor in tensors} | {torch.device(kwargs.get("device") or "cpu").type}
        if "meta" in sides and (name in READS or (name == "_to_copy" and "device" in kwargs and len(sides) > 1)):
            self.found.append(name)
        chosen = [index for index in tree_leaves(args[1:2]) if isinstance(index, torch.Tensor)]
        if name in ("index", "index_put", "index_put_") and any(index.dtype == torch.bool for index in chosen):
            self.found.append(f"{name} by a mask")
        return function(*args, **kwargs)


class DeviceGenerator:
    """Stands in for a generator on the device, which torch without META does not have."""

    device = META


@pytest.fixture
def on_meta(monkeypatch):
    """Fake tensors; random numbers are drawn on the generator's device, and the step is one of the middle of a run."""
    for name in ("rand", "randn", "randperm"):
        draw = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *size, generator=None, draw=draw, **options: draw(*size, **options))
    for owner, name in ((torch, "tensor"), (torch, "as_tensor"), (torch.Tensor, "new_tensor")):
        monkeypatch.setattr(owner, name, recorded(getattr(owner, name)))
    host = system_module.step_generator
    monkeypatch.setattr(
        system_module, "step_generator", lambda *drawn: DeviceGenerator() if META in drawn else host(*drawn)
    )
    for name, value in {"device": META, "global_step": 300, "global_rank": 0, "progress": 0.6}.items():
        monkeypatch.setattr(DreamFusion, name, value)
    monkeypatch.setattr(DreamFusion, "log_dict", lambda self, values, **options: self.logged.append(values))
    monkeypatch.setattr(DreamFusion, "logged", [], raising=False)
    monkeypatch.setattr(occupancy, "march", all_steps)
    monkeypatch.setattr(torch, "autocast", lambda *chosen, **options: contextlib.nullcontext())  # not for meta
    caches = (backend._choose, backend.missing, constant)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


def recorded(make):
    """A function that makes a tensor from Python's numbers; no operation shows the copy to the device."""

    def call(*given, **options):
        made = make(*given, **options)
        if made.device == META:
            Waits.found.append(make.__name__)
        return made

    return call


def on_device(tensor):
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=META)


def moved(module):
    """The module with empty parameters and buffers on the device."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = torch.nn.Parameter(on_device(parameter), requires_grad=parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = on_device(buffer)
    return module


def all_steps(rays, occupancy, radius, step, jitter, backend=None):
    """STEPS samples on every ray: the number of samples, which `march` reads, is known beforehand."""
    near, _ = reference.sphere_chords(rays.origins, rays.directions, radius)
    ray = torch.arange(len(rays), device=near.device).repeat_interleave(STEPS, output_size=len(rays) * STEPS)
    index = torch.arange(STEPS, device=near.device).repeat(len(rays))
    return reference.pack(rays, ray, index, near, step, jitter)


@pytest.fixture
def system(monkeypatch, request):
    """The system of the default command, on the CPU, with a prior that no other test has used."""
    monkeypatch.setattr(prior_cache, "_KEPT", {})
    prompt = getattr(request, "param", "a cat")
    return copy.deepcopy(assemble(dreamfusion.compose([f"prompt={prompt}", "field.levels=4"])))


def step(system, monkeypatch, lit, mode):
    """The loss of a step on the device, after the backward pass, in a dispatch mode."""
    prior = system.distillation.prior
    cameras = option("camera/orbit", size=64).sample(0.6, torch.Generator())
    scene = prior._scenes._prepare(0, torch.device("cpu"))  # this is copied in the first step
    moved(system.scene), moved(prior.model)
    prior.alphas_cumprod, prior._dtype = on_device(prior.alphas_cumprod), torch.float32
    system.text_table = system.text_table.with_each(lambda part: part.with_each(on_device))
    monkeypatch.setattr(Lighting, "draw", lambda self, progress, generator: LAMBERTIAN if lit else ALBEDO)
    constant(WHITE, META, torch.float32)  # and this
    prior._scenes._prepared[0] = scene.with_each(on_device)
    Waits.found.clear()
    with mode:
        loss = system.training_step(cameras.to(META), 0)
        loss.backward()
    return loss


@pytest.mark.parametrize(
    ("system", "lit"),
    [("a cat", False), ("a cat", True), ("a cat on a chair", False)],
    ids=["plain", "lit", "several"],
    indirect=["system"],
)
def test_a_step_waits_for_the_device_in_march_alone(system, on_meta, monkeypatch, lit):
    loss = step(system, monkeypatch, lit, Waits())
    assert loss.device == META
    assert Waits.found == ["_to_copy"]  # the cameras, packed, from pinned memory
    assert all(value.device == META for values in system.logged for value in values.values())


class Dtypes(TorchDispatchMode):
    """Records the dtypes of all results on the device."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.found |= {x.dtype for x in tree_leaves(result) if isinstance(x, torch.Tensor) and x.device == META}
        return result


@pytest.mark.parametrize("lit", [False, True], ids=["plain", "lit"])
def test_the_reference_path_of_apples_gpus_has_only_dtypes_that_they_have(system, on_meta, monkeypatch, lit):
    """They have neither float64 nor complex128."""
    for module in (reference, hash_grid_reference, composite_reference):
        monkeypatch.setattr(module, "widest_float", lambda device: backend.widest_float(torch.device("mps")))
    dtypes = Dtypes()
    step(system, monkeypatch, lit, dtypes)
    assert dtypes.found <= {torch.float32, torch.int64, torch.int32, torch.bool}


# The values that the kernels of a GPU read on the host, and why.
READ = {
    ("march/triton.py", "int(offsets[-1])"): "the number of samples, for which memory is allocated",
    ("march/reference.py", "dense.nonzero(as_tuple=True)"): "the same",
    ("ops/binning.py", "int(ends[-1])"): "the number of pairs of a tile and a Gaussian or a face, for the same",
}


def test_the_operations_of_a_gpu_read_no_other_value_on_the_host():
    """Of meshes and Gaussians Triton's kernels alone: the reference and nvdiffrast read more."""
    found = set()
    folder = Path(backend.__file__).parent
    for path in (folder / "binning.py", *folder.glob("*/*.py")):
        others = ("cuda", "reference") if path.parent.name not in ("rasterize", "splat") else ()
        if path.stem not in ("binning", "triton", *others):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            method = node.func.attr if isinstance(node.func, ast.Attribute) else None
            converts = isinstance(node.func, ast.Name) and node.func.id in ("int", "float", "bool")
            reads = method in (*READS, "item", "tolist", "cpu", "numpy")
            if reads or (converts and isinstance(node.args[0], ast.Subscript | ast.Call)):
                found.add((f"{path.parent.name}/{path.name}", ast.unparse(node)))
    assert found == set(READ) | ON_THE_HOST


def test_no_tensor_of_a_step_is_indexed_by_a_list():
    """Its numbers are copied to the device, for which the host waits; and no CUDA graph takes such a copy."""
    found = set()
    for folder in ("camera", "diffusion", "distillation", "guidance", "ops", "prompting", "scene"):
        for path in (Path(dreamfusion.__file__).parent / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Subscript) and ast.unparse(node.value) != "Callable":
                    parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
                    found |= {path.name for part in parts if isinstance(part, ast.List)}
    assert found == {"recognition.py"}  # not of a step


# Not of a tensor on the device.
ON_THE_HOST = {
    ("hash_grid/reference.py", "_index(x, y, z, layout, level).view(-1, 8).numpy()"),  # of `corner_entries`, a CPU's
}


class Reads(TorchDispatchMode):
    """Records the files, below site-packages or this repository, that read a value of a tensor."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket.__name__ == "_local_scalar_dense":
            files = [Path(frame.filename).as_posix() for frame in traceback.extract_stack()[:-1]]
            self.found.append(next(name for name in reversed(files) if "/torch/" not in name))
        return function(*args, **(kwargs or {}))


def test_neither_lightning_nor_the_metrics_read_a_value_in_a_step_that_is_not_logged(make_system, tmp_path):
    """Lightning reads what is logged with `prog_bar` at the end of every step."""
    with Reads() as reads:
        trainer = train(make_system(), tmp_path, Metrics(), steps=3)
    assert {"gradient_norm", "opacity", "noise_level"} <= set(trainer.callback_metrics)
    places = [Path(name) for name in reads.found if "/lightning/" in name or "/dreamfusion/training/" in name]
    assert [place.name for place in places] == ["combined_loader.py"]  # a seed, once, on the host
    with Reads() as reads:
        figures(trainer)
    assert [Path(name).name for name in reads.found] == ["progress.py"] * 2


def test_a_decision_of_the_host_reads_no_number_of_the_device():
    class Generator:
        device = META

        def __init__(self, seed):
            self.seed = seed

        def initial_seed(self):
            return self.seed

    seeds = [step_seed(0, number, Stream.TRAINING) for number in range(2000)]
    with Waits():
        Waits.found.clear()
        happened = [chance(0.1, Generator(seed)) for seed in seeds]
    assert not Waits.found and sum(happened) / len(seeds) == pytest.approx(0.1, abs=0.03)
    assert happened == [chance(0.1, Generator(seed)) for seed in seeds]


def test_what_waits_for_a_device_is_recorded(on_meta):
    x = torch.zeros(3, device=META)
    for wait, name in (
        (x.sum().item, "_local_scalar_dense"),
        (x.nonzero, "nonzero"),
        (x.cpu, "_to_copy"),
        (lambda: torch.zeros(3).to(META), "_to_copy"),
        (lambda: x[x > 0], "index by a mask"),
        (lambda: torch.tensor([1.0], device=META), "tensor"),
        (lambda: x.new_tensor([1.0]), "new_tensor"),
    ):
        Waits.found.clear()
        with Waits(), contextlib.suppress(RuntimeError, NotImplementedError):  # there are no values
            wait()
        assert Waits.found == [name]
