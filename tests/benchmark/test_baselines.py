"""The baselines compute the documented functions, so that the comparison is one of speed."""

import pytest
import torch

from dreamfusion.benchmark.baselines import ENCODINGS, BaselineField, parameter_count, vectorised
from dreamfusion.benchmark.cases import Step
from dreamfusion.ops.hardware import processor
from dreamfusion.ops.hash_grid import hash_encode
from dreamfusion.ops.hash_grid.layout import HashGridLayout
from dreamfusion.ops.machine import Gather, Multiply
from dreamfusion.scene.nerf.hashgrid import HashGridField
from dreamfusion.scene.shading import ALBEDO, LAMBERTIAN

SMALL = HashGridLayout(levels=5, log2_table_size=10, base_resolution=4, max_resolution=64)
SETTINGS = {
    "radius": 1.0, "levels": 5, "features": 2, "log2_table_size": 10, "base_resolution": 4, "max_resolution": 64,
    "hidden": 8, "blob_density": 5.0, "blob_radius": 0.5, "density_scale": 1.0, "precision": "auto", "open_levels": 1.0,
}  # fmt: skip


def positions(seeded, count=300):
    return torch.rand(count, 3, generator=seeded())


def test_the_vectorised_formulation_equals_the_reference(seeded):
    x, table = positions(seeded), torch.randn(SMALL.parameter_count, generator=seeded(1))
    torch.testing.assert_close(vectorised(x, table, SMALL), hash_encode(x, table, SMALL, "torch"), rtol=1e-4, atol=1e-4)


def test_the_nerfstudio_style_interpolates_a_constant_exactly_and_a_corner_reads_its_own_entry(seeded):
    encode = ENCODINGS["nerfstudio-style"]
    count = parameter_count("nerfstudio-style", SMALL)
    assert count == 5 * 2**10 * 2
    torch.testing.assert_close(encode(positions(seeded), torch.ones(count), SMALL), torch.ones(300, 10))
    table = torch.randn(count, generator=seeded(1))
    origin = encode(torch.zeros(1, 3), table, SMALL)  # hashes to the first entry of every level
    torch.testing.assert_close(origin.view(5, 2), table.view(5, -1, 2)[:, 0])


def test_the_nerfstudio_style_gradient_matches_finite_differences(seeded):
    encode = ENCODINGS["nerfstudio-style"]
    table = torch.randn(parameter_count("nerfstudio-style", SMALL), generator=seeded(1), dtype=torch.float64)
    x = positions(seeded, 20).double().requires_grad_()
    (input_gradient,) = torch.autograd.grad(encode(x, table, SMALL).sum(), x)
    step = 1e-7
    for d in range(3):
        shift = step * torch.eye(3, dtype=torch.float64)[d]
        difference = (encode(x + shift, table, SMALL) - encode(x - shift, table, SMALL)).sum(1) / (2 * step)
        torch.testing.assert_close(input_gradient[:, d], difference.detach(), rtol=1e-4, atol=1e-4)


def test_a_baseline_field_with_our_encoding_equals_our_field(seeded):
    torch.manual_seed(0)
    ours, baseline = HashGridField(**SETTINGS), BaselineField("vectorised torch", **SETTINGS)
    with torch.no_grad():
        ours.table.normal_(std=0.5, generator=seeded(1))
    baseline.load_state_dict(ours.state_dict())
    x = positions(seeded) - 0.5
    for name in ("density", "albedo", "normal"):
        expected, actual = getattr(ours(x, True), name), getattr(baseline(x, True), name)
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shading", [ALBEDO, LAMBERTIAN], ids=["plain", "lit"])
def test_a_step_moves_the_parameters_of_every_field(shading):
    for name in (None, *ENCODINGS):
        step = Step(name, 6, 8, shading)
        before = [parameter.detach().clone() for parameter in step.field.parameters()]
        step()
        after = list(step.field.parameters())
        assert all(not torch.equal(a, b) and a.isfinite().all() for a, b in zip(after, before, strict=True)), name


@pytest.mark.parametrize("in_order", [False, True])
def test_the_gather_reads_each_corner_of_each_level_once(seeded, in_order):
    gather = Gather(positions(seeded), SMALL, in_order)
    assert gather._entries.shape == (5, 300, 8)
    assert all(int(gather._entries[level].max()) < SMALL.sizes[level] for level in range(5))
    one = torch.ones(2, dtype=torch.float32).numpy().view("uint64")[0]  # every entry of the table
    assert gather() == int(5 * 300 * 8 * int(one)) % 2**64


def test_the_product_is_correct_and_the_processor_has_a_name():
    product = Multiply()
    torch.testing.assert_close(product(), product._a @ product._b)
    assert processor()
