"""The hash grid field compared with finite differences and closed forms."""

import lightning as L
import pytest
import torch
from options import option
from torch.nn import functional as F
from training import make_trainer

from dreamfusion.camera.data import CameraData


def inside(seeded, count=200, radius=0.8):
    points = torch.randn(count, 3, generator=seeded(1))
    return radius * points / points.norm(dim=-1, keepdim=True) * torch.rand(count, 1, generator=seeded(2))


def zero_table(field):
    """Zero the table, so that the network's outputs are exactly 0."""
    torch.nn.init.zeros_(field.table)
    return field


def test_the_blob_alone_falls_linearly_and_crosses_zero_at_its_radius(tiny_field):
    field = zero_table(tiny_field(blob_density=10.0, blob_radius=0.5, density_scale=3.0))
    distance = torch.tensor([0.1, 0.25, 0.5, 0.9])
    positions = F.normalize(torch.tensor([[1.0, -2.0, 0.5]]), dim=-1) * distance[:, None]
    expected = 3.0 * F.softplus(10.0 * (1 - distance / 0.5))
    torch.testing.assert_close(field.density(positions), expected)
    torch.testing.assert_close(field(positions).density, expected)
    assert field.density(positions)[2].item() == pytest.approx(3.0 * 0.6931, rel=1e-3)  # softplus(0) = log 2


def test_an_untrained_field_is_grey_and_its_blob_points_outwards(tiny_field, seeded):
    field, positions = zero_table(tiny_field()), inside(seeded)
    output = field(positions, with_normal=True)
    torch.testing.assert_close(output.albedo, torch.full_like(positions, 0.5))
    torch.testing.assert_close(output.normal, F.normalize(positions, dim=-1), atol=1e-4, rtol=0)


def test_the_first_weights_are_uniform_up_to_one_over_the_root_of_the_inputs_and_the_table_is_nearly_zero(tiny_field):
    field = tiny_field(hidden=256)
    for weight, inputs in ((field.hidden_weight, 3 * 2), (field.output_weight, 256)):
        assert weight.shape[1] == inputs
        bound = inputs**-0.5
        assert 0.98 * bound < weight.max() <= bound and -bound <= weight.min() < -0.98 * bound
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert 0.9e-4 < field.table.abs().max() <= 1e-4


@pytest.fixture
def reference(monkeypatch):
    """Use the torch reference in float64, so that finite differences rarely cross cell boundaries."""
    monkeypatch.setenv("DREAMFUSION_OPS", "torch")


@pytest.mark.parametrize("radius", [1.0, 2.0])
def test_the_analytic_normal_is_minus_the_gradient_of_the_density_by_finite_differences(
    radius, tiny_field, seeded, reference
):
    field, positions = tiny_field(strong=True, radius=radius).double(), inside(seeded, radius=0.8 * radius).double()
    step = 1e-6
    gradient = torch.stack(
        [(field.density(positions + o) - field.density(positions - o)) / (2 * step) for o in step * torch.eye(3)], -1
    )
    normal = field(positions, with_normal=True).normal
    torch.testing.assert_close(normal, -F.normalize(gradient, dim=-1), atol=1e-5, rtol=0)


def test_a_field_twice_as_large_is_the_same_at_twice_the_distance(tiny_field, seeded):
    """But for the blob, whose size is in scene units."""
    small, large = (tiny_field(strong=True, radius=radius, blob_density=0.0) for radius in (1.0, 2.0))
    large.load_state_dict(small.state_dict())
    positions = inside(seeded)
    for one, other in zip(
        small(positions, True).__dict__.values(), large(2 * positions, True).__dict__.values(), strict=True
    ):
        torch.testing.assert_close(other, one, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(large.density(2 * positions), small.density(positions), atol=1e-4, rtol=1e-4)
    edge = F.normalize(torch.tensor([[1.0, 2.0, -1.0]]), dim=-1)
    assert (large.density(edge * torch.tensor([[1.99], [2.01]])) > 0).tolist() == [True, False]


def test_normals_of_the_kernels_match_the_reference(tiny_field, seeded, monkeypatch):
    field, positions = tiny_field(strong=True, precision="float32"), inside(seeded)
    fast = field(positions, with_normal=True).normal
    monkeypatch.setenv("DREAMFUSION_OPS", "torch")
    torch.testing.assert_close(fast, field(positions, with_normal=True).normal, atol=1e-4, rtol=0)


def test_normals_are_unit_and_have_gradients_to_every_parameter_that_shapes_the_density(tiny_field, seeded):
    field, positions = tiny_field(strong=True), inside(seeded)
    normal = field(positions, with_normal=True).normal
    torch.testing.assert_close(normal.norm(dim=-1), torch.ones(len(positions)))
    towards = F.normalize(torch.randn(len(positions), 3, generator=seeded(3)), dim=-1)
    (normal * towards).sum().backward()
    for parameter in (field.table, field.hidden_weight, field.output_weight):
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().max() > 0
    assert (field.output_weight.grad[1:] == 0).all()  # colours do not affect the density


def test_the_gradient_of_a_normal_is_that_of_finite_differences(tiny_field, seeded, reference):
    """Covers the double backward pass through the hash grid."""
    field, positions = tiny_field(strong=True).double(), inside(seeded, 20).double()
    towards = torch.randn(20, 3, generator=seeded(3)).double()

    def score():
        return (field(positions, with_normal=True).normal * towards).sum()

    score().backward()
    weight, index, step = field.hidden_weight, (2, 1), 1e-6
    with torch.no_grad():
        weight[index] += step
        above = score()
        weight[index] -= 2 * step
        below = score()
    assert weight.grad[index].item() == pytest.approx(((above - below) / (2 * step)).item(), rel=1e-4)


def test_normals_are_equal_without_gradient_tracking(tiny_field, seeded):
    field, positions = tiny_field(strong=True), inside(seeded)
    with torch.no_grad():
        output = field(positions, with_normal=True)
    assert not any(tensor.requires_grad for tensor in (output.density, output.albedo, output.normal))
    trained = field(positions, with_normal=True)
    torch.testing.assert_close(output.normal, trained.normal.detach())
    torch.testing.assert_close(output.density, trained.density.detach())


def test_computing_normals_changes_neither_density_nor_albedo(tiny_field, seeded):
    field, positions = tiny_field(strong=True), inside(seeded)
    plain, with_normal = field(positions), field(positions, with_normal=True)
    torch.testing.assert_close(plain.density, with_normal.density)
    torch.testing.assert_close(plain.albedo, with_normal.albedo)
    assert plain.normal is None


def test_at_the_origin_everything_is_finite(tiny_field):
    field = tiny_field(strong=True)
    output = field(torch.zeros(1, 3), with_normal=True)
    (output.normal.sum() + output.density.sum()).backward()
    assert output.normal.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in field.parameters())


def test_the_density_is_zero_outside_the_bounding_ball_and_positive_inside(tiny_field):
    field = tiny_field(radius=1.4)
    positions = torch.tensor([[1.39, 0, 0], [0, 0, 1.41], [1.0, 1.0, 0.5], [0.9, 0.9, 0.5]])
    assert (field.density(positions) > 0).tolist() == [True, False, False, True]


@pytest.mark.parametrize("name", ["radius", "blob_radius", "density_scale", "hidden"])
def test_sizes_of_zero_are_refused(name, tiny_field):
    with pytest.raises(ValueError, match=f"field.{name} is 0|field.{name} 0"):
        tiny_field(**{name: 0})


@pytest.mark.parametrize("radius", [0.0, 1e-30, 1e30, float("inf"), float("nan")])
@pytest.mark.parametrize("part", ["field/hashgrid", "renderer/occupancy", "renderer/stratified"])
def test_a_radius_that_float32_cannot_march_is_refused(radius, part):
    """At 1e30 the chord of a ray is infinite, and the march along it did not end."""
    name = part.split("/")[0]
    with pytest.raises(ValueError, match=rf"{name}\.radius is .*, allowed are 0.001 to 1000 scene units; type {name}"):
        option(part, radius=radius)


def test_levels_open_one_after_the_other_and_are_untouched_before(make_system, make_scene, tiny_field, tmp_path):
    """Three levels over eight steps: one for two steps, then two, and all from the sixth on."""
    field = tiny_field(strong=True, open_levels=[[0, 0.34], [0.25, 0.34], [0.25, 0.67], [0.75, 0.67], [0.75, 1.0]])
    starts = [offset * field.layout.features for offset in (*field.layout.offsets, sum(field.layout.sizes))]
    before, tables = field.table.detach().clone(), []
    system = make_system(scene=make_scene(field))
    make_trainer(tmp_path, AfterStep(lambda: tables.append(field.table.detach().clone())), steps=8).fit(
        system, CameraData(option("camera/orbit", size=16), 8, system.seed)
    )
    for level, first in enumerate([0, 2, 6]):
        part = slice(starts[level], starts[level + 1])
        assert [torch.equal(table[part], before[part]) for table in tables] == [step < first for step in range(8)]


class AfterStep(L.Callback):
    """Calls a function after each step."""

    def __init__(self, call):
        self.call = call

    def on_train_batch_end(self, *_):
        self.call()


def test_the_levels_of_threestudio_open_at_its_steps():
    """threestudio's dreamfusion-sd: 8 of 16 levels up to step 2,000 of 10,000, then one more every 500 steps."""
    field = option("field/threestudio", log2_table_size=4)
    steps = [0, 1999, 2000, 2499, 2500, 3000, 5999, 6000, 10000]
    assert [field.open_count(step / 10000) for step in steps] == [8, 8, 8, 8, 9, 10, 15, 16, 16]


@pytest.mark.parametrize("share", [0.0, 1.5, [[0, 0.5], [1, 2]]])
def test_a_share_of_levels_out_of_range_is_refused(share, tiny_field):
    with pytest.raises(ValueError, match=r"field.open_levels is .*; type field.open_levels=1.0"):
        tiny_field(open_levels=share)
