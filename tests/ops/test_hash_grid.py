"""The hash encoding: closed forms, a scalar oracle, derivatives, and every backend against the reference."""

import contextlib
import math
import sys
from itertools import product
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from options import available

from dreamfusion.ops.hash_grid import hash_encode
from dreamfusion.ops.hash_grid.layout import HashGridLayout

CPU = torch.device("cpu")
BACKENDS = available("hash_encode", CPU)
KERNELS = [b for b in BACKENDS if b != "torch"]
THREADED = [b for b in KERNELS if b == "numba"]
SMALL = HashGridLayout(levels=5, log2_table_size=10, base_resolution=4, max_resolution=64)  # 2 dense, 3 hashed levels
WIDE = HashGridLayout(levels=3, features=4, log2_table_size=9, base_resolution=5, max_resolution=40)
LAYOUTS = {"wide": WIDE, "fine": HashGridLayout(levels=16, log2_table_size=14)}


def draw(layout, count, seed=0):
    """Positions including the box corners, a table, and directions for y, x and the table."""
    g = torch.Generator().manual_seed(seed)
    positions = torch.rand(count, 3, generator=g)
    corners = torch.tensor(list(product((0.0, 1.0), repeat=3)))[:count]
    positions[: len(corners)] = corners
    table = torch.randn(layout.parameter_count, generator=g)
    return (
        positions.requires_grad_(),
        table.requires_grad_(),
        torch.randn(count, layout.width, generator=g).requires_grad_(),
        torch.randn(count, 3, generator=g),
        torch.randn(layout.parameter_count, generator=g),
    )


def all_derivatives(layout, backend, count=400):
    """y; dx, dtable; and the gradients of <v, dx> + <u, dtable> with respect to x, table and g."""
    x, table, g, v, u = draw(layout, count)
    y = hash_encode(x, table, layout, backend)
    dx, dtable = torch.autograd.grad(y, (x, table), g, create_graph=True)
    second = torch.autograd.grad((dx * v).sum() + (dtable * u).sum(), (x, table, g))
    return {"y": y, "dx": dx, "dtable": dtable} | dict(zip(("ddx", "ddtable", "ddg"), second, strict=True))


def oracle(position, table, layout):
    """One position in Python floats, following tiny-cuda-nn's grid.h."""
    encoded = []
    for level in range(layout.levels):
        resolution, size = layout.resolutions[level], layout.sizes[level]
        scaled = [layout.scales[level] * c + 0.5 for c in position]
        cell = [math.floor(s) for s in scaled]
        features = [0.0] * layout.features
        for bits in product((0, 1), repeat=3):
            weight = math.prod(s - c if b else 1 - (s - c) for s, c, b in zip(scaled, cell, bits, strict=True))
            i, j, k = (c + b for c, b in zip(cell, bits, strict=True))
            if resolution**3 <= size:
                index = i + j * resolution + k * resolution**2
            else:
                index = i ^ (j * 2654435761 % 2**32) ^ (k * 805459861 % 2**32)
            begin = (layout.offsets[level] + index % size) * layout.features
            features = [f + weight * table[begin + n] for n, f in enumerate(features)]
        encoded += features
    return encoded


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_linear_table_is_interpolated_exactly(backend):
    layout = HashGridLayout(levels=1, log2_table_size=15, base_resolution=16, max_resolution=16)
    assert layout.dense == (True,)
    vertex = torch.arange(16.0)
    z, y, x = torch.meshgrid(vertex, vertex, vertex, indexing="ij")  # x fastest
    table = torch.stack((x + 2 * y - z, 3 * z + 1), dim=-1).flatten()
    positions = torch.rand(500, 3, generator=torch.Generator().manual_seed(0)) * 0.96  # short of the far face
    u, v, w = (positions * 15 + 0.5).unbind(-1)
    expected = torch.stack((u + 2 * v - w, 3 * w + 1), dim=-1)
    torch.testing.assert_close(hash_encode(positions, table, layout, backend), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", [SMALL, WIDE], ids=["small", "wide"])
def test_the_encoding_matches_the_scalar_oracle_and_wraps_at_the_far_face(backend, layout):
    positions, table, *_ = draw(layout, 60)
    expected = torch.tensor([oracle(p, table.tolist(), layout) for p in positions.tolist()])
    torch.testing.assert_close(hash_encode(positions, table, layout, backend), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_positions_outside_are_clamped_and_have_no_gradient(backend):
    _, table, *_ = draw(SMALL, 1)
    outside = torch.tensor([[-0.5, 0.3, 0.6], [0.2, 1.5, 7.0]], requires_grad=True)
    y = hash_encode(outside, table, SMALL, backend)
    assert torch.equal(y, hash_encode(outside.detach().clamp(0, 1), table, SMALL, backend))
    (dx,) = torch.autograd.grad(y.square().sum(), outside)
    inside = torch.tensor([[False, True, True], [True, False, False]])
    assert torch.equal(dx != 0, inside)


def test_the_reference_passes_gradcheck_to_second_order():
    layout = HashGridLayout(levels=2, log2_table_size=5, base_resolution=2, max_resolution=7)
    g = torch.Generator().manual_seed(3)
    x = torch.rand(4, 3, generator=g, dtype=torch.float64).requires_grad_()
    table = torch.randn(layout.parameter_count, generator=g, dtype=torch.float64).requires_grad_()

    def encode(positions, entries):
        return hash_encode(positions, entries, layout, "torch")

    assert torch.autograd.gradcheck(encode, (x, table))
    assert torch.autograd.gradgradcheck(encode, (x, table))


@pytest.mark.parametrize(
    ("backend", "count"),
    # Blocks end at 128 points in numba's kernels, and at 4096 points times levels in triton's interpreter.
    [(b, n) for b in KERNELS for n in (0, 1, 127, 128, 129, 1000) if b != "triton" or n in (0, 1, 1000)],
)
def test_kernels_match_the_reference_to_second_order_for_any_number_of_points(backend, count):
    reference, kernel = all_derivatives(SMALL, "torch", count), all_derivatives(SMALL, backend, count)
    for name, expected in reference.items():
        torch.testing.assert_close(kernel[name], expected, rtol=1e-4, atol=2e-6 * scale_of(expected), msg=name)


@pytest.mark.parametrize(
    ("backend", "layout"),
    # More levels are more of the same for triton, which has no blocks of levels.
    [pytest.param(b, y, id=f"{n}-{b}") for b in KERNELS for n, y in LAYOUTS.items() if b != "triton" or n == "wide"],
)
def test_kernels_match_the_reference_to_second_order_for_other_layouts(backend, layout):
    reference, kernel = all_derivatives(layout, "torch"), all_derivatives(layout, backend)
    for name, expected in reference.items():
        torch.testing.assert_close(kernel[name], expected, rtol=1e-4, atol=2e-6 * scale_of(expected), msg=name)


def scale_of(tensor):
    return float(tensor.detach().abs().max()) if tensor.numel() else 1.0


@pytest.mark.parametrize("backend", [b for b in BACKENDS if b != "triton"])  # its second order is the reference's
def test_a_loss_on_normals_trains_the_table(backend):
    """Normals as in the field; the gradient matches finite differences along a random direction."""
    x, table, _, _, u = draw(SMALL, 50)
    readout = torch.randn(SMALL.width, generator=torch.Generator().manual_seed(1))

    def loss(entries):
        density = hash_encode(x, entries, SMALL, backend) @ readout
        (input_gradient,) = torch.autograd.grad(density.sum(), x, create_graph=True)
        return (torch.nn.functional.normalize(input_gradient, dim=-1) * torch.tensor([1.0, 2.0, 3.0])).mean()

    loss(table).backward()
    h = 1e-3
    difference = (loss((table + h * u).detach()) - loss((table - h * u).detach())) / (2 * h)
    assert (table.grad * u).sum().item() == pytest.approx(difference.item(), rel=2e-2)


@pytest.mark.parametrize("backend", THREADED)
def test_threads_and_repetition_do_not_change_a_bit(backend):
    runs = []
    for threads in (1, 1, 2, 3, 4):
        torch.set_num_threads(threads)
        runs.append(all_derivatives(SMALL, backend, 20_000))
    for run in runs[1:]:
        for name, first in runs[0].items():
            assert torch.equal(first, run[name]), name


@pytest.mark.skipif("numba" not in BACKENDS, reason="no numba")
def test_a_gradient_reuses_the_last_buffer_only_if_it_is_unreferenced():
    layout = HashGridLayout(levels=2, log2_table_size=7, base_resolution=6, max_resolution=11)  # used by no other test
    x, table, g, *_ = draw(layout, 100)

    def gradient(factor):
        return torch.autograd.grad(hash_encode(x.detach(), table, layout, "numba"), table, factor * g.detach())[0]

    first = gradient(1.0)
    kept, view = first.clone(), first[10:]
    second = gradient(2.0)
    assert second.data_ptr() != first.data_ptr()
    torch.testing.assert_close(first, kept, rtol=0, atol=0)
    place = second.data_ptr()
    del first, second
    third = gradient(3.0)
    assert third.data_ptr() == place
    torch.testing.assert_close(view, kept[10:], rtol=0, atol=0)
    torch.testing.assert_close(third, 3 * kept)


@pytest.mark.skipif("numba" not in BACKENDS, reason="numba is not installed")
def test_an_unneeded_gradient_is_not_computed(monkeypatch):
    from dreamfusion.ops.hash_grid import cpu as hash_grid_cpu

    def forbidden(*_):
        raise AssertionError("computed")

    x, table, g, *_ = draw(SMALL, 50)
    y = hash_encode(x, table, SMALL, "numba")
    with monkeypatch.context() as m:
        m.setattr(hash_grid_cpu, "scatter", forbidden)
        torch.autograd.grad(y, x, g, create_graph=True)
    with monkeypatch.context() as m:
        m.setattr(hash_grid_cpu, "position_gradient", forbidden)
        torch.autograd.grad(y, table, g, retain_graph=True)
        y.backward(g, inputs=[table])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_strided_table_and_transposed_positions_are_read_right(backend):
    x, table, *_ = (t.detach() for t in draw(SMALL, 200))
    expected = hash_encode(x, table, SMALL, backend)
    strided = torch.stack((table, table), dim=-1)[:, 0]
    assert torch.equal(hash_encode(x.t().contiguous().t(), strided, SMALL, backend), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_nan_position_reads_inside_the_table(backend):
    x, table, *_ = (t.detach() for t in draw(SMALL, 200))
    expected = hash_encode(x, table, SMALL, backend)
    x[7] = torch.nan
    y = hash_encode(x, table, SMALL, backend)
    others = torch.arange(200) != 7
    assert torch.equal(y[others], expected[others]) and y[7].isnan().all()


def test_wrong_shapes_types_and_backends_are_named():
    x, table, *_ = draw(SMALL, 5)
    with pytest.raises(ValueError, match=r"positions has shape \(5, 2\), expected \(any, 3\)"):
        hash_encode(x[:, :2], table, SMALL)
    with pytest.raises(ValueError, match=rf"table has shape \(7,\), expected \({SMALL.parameter_count},\)"):
        hash_encode(x, table[:7], SMALL)
    with pytest.raises(ValueError, match="no backend 'tinycudann' on cpu, allowed are torch, numba"):
        hash_encode(x, table, SMALL, "tinycudann")
    for backend in KERNELS:
        with pytest.raises(TypeError, match=r"takes torch.float32, got torch.float64"):
            hash_encode(x.double(), table.double(), SMALL, backend)


class StandInForTinycudannEncoding(torch.nn.Module):
    """Records construction and calls; computes the reference from `self.params`, as tinycudann.Module does."""

    made: ClassVar[list] = []

    def __init__(self, n_input_dims, encoding_config, seed=1337, dtype=None):
        super().__init__()
        self.made.append((n_input_dims, encoding_config, dtype))
        self.params = torch.nn.Parameter(torch.zeros(SMALL.parameter_count))

    def forward(self, x):
        return hash_encode(x, self.params, SMALL, "torch")


@pytest.fixture
def tinycudann_stand_in(monkeypatch):
    from dreamfusion.ops.hash_grid import cuda as hash_grid_cuda

    monkeypatch.setitem(sys.modules, "tinycudann", SimpleNamespace(Encoding=StandInForTinycudannEncoding))
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(StandInForTinycudannEncoding, "made", [])
    hash_grid_cuda._encoding.cache_clear()
    yield hash_grid_cuda
    hash_grid_cuda._encoding.cache_clear()


def test_the_tinycudann_adapter_puts_our_table_in_place_of_its_parameters(tinycudann_stand_in):
    x, table, g, v, _ = draw(SMALL, 100)
    y = tinycudann_stand_in.hash_encode(x, table, SMALL)
    dx, dtable = torch.autograd.grad(y, (x, table), g, create_graph=True)
    (second,) = torch.autograd.grad(dx, table, v)
    reference = hash_encode(x, table, SMALL, "torch")
    expected_dx, expected_dtable = torch.autograd.grad(reference, (x, table), g, create_graph=True)
    (expected_second,) = torch.autograd.grad(expected_dx, table, v)
    for a, b in ((y, reference), (dx, expected_dx), (dtable, expected_dtable), (second, expected_second)):
        assert torch.equal(a, b)
    tinycudann_stand_in.hash_encode(x, table, SMALL)
    ((dims, config, dtype),) = StandInForTinycudannEncoding.made  # made once
    assert (dims, dtype) == (3, torch.float32)
    assert config == {
        "otype": "HashGrid",
        "n_levels": 5,
        "n_features_per_level": 2,
        "log2_hashmap_size": 10,
        "base_resolution": 4,
        "per_level_scale": pytest.approx(2.0),
        "interpolation": "Linear",
    }


def test_the_tinycudann_adapter_takes_no_points_and_stays_connected(tinycudann_stand_in):
    x, table, *_ = draw(SMALL, 0)
    y = tinycudann_stand_in.hash_encode(x, table, SMALL)
    assert y.shape == (0, SMALL.width)
    y.sum().backward()
    assert not table.grad.any()


def test_the_tinycudann_adapter_refuses_another_layout(tinycudann_stand_in):
    table = torch.zeros(WIDE.parameter_count)
    with pytest.raises(RuntimeError, match=f"in {SMALL.parameter_count} parameters.*expected {WIDE.parameter_count}"):
        tinycudann_stand_in.hash_encode(torch.rand(3, 3), table, WIDE)


def test_no_positions_stay_connected_on_cuda_to_positions_and_table():
    """tiny-cuda-nn takes no empty batch; a lit frame of an empty scene needs the gradient of the positions."""
    from dreamfusion.ops.hash_grid.cuda import hash_encode as on_cuda

    layout = HashGridLayout(levels=2)
    positions, table = torch.zeros(0, 3, requires_grad=True), torch.zeros(layout.parameter_count, requires_grad=True)
    encoded = on_cuda(positions, table, layout)
    assert encoded.shape == (0, layout.width)
    slope, to_table = torch.autograd.grad(encoded.sum(), (positions, table), create_graph=True)
    assert slope.shape == (0, 3) and not to_table.any()
