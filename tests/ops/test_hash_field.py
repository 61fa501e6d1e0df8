"""The fused field against the composition over the torch reference, in value, first and second derivative."""

from itertools import product

import pytest
import torch
from options import available

from dreamfusion.error import UserError
from dreamfusion.ops import precision
from dreamfusion.ops.hash_field import hash_field
from dreamfusion.ops.hash_field.reference import hash_field as composed
from dreamfusion.ops.hash_grid import cpu as hash_grid_cpu
from dreamfusion.ops.hash_grid import hash_encode
from dreamfusion.ops.hash_grid.layout import HashGridLayout

pytestmark = pytest.mark.skipif("numba" not in available("hash_field", torch.device("cpu")), reason="no numba")
SMALL = HashGridLayout(levels=5, log2_table_size=10, base_resolution=4, max_resolution=64)  # 2 dense, 3 hashed levels
WIDE = HashGridLayout(levels=3, features=4, log2_table_size=9, base_resolution=5, max_resolution=40)
FINE = HashGridLayout(levels=16, log2_table_size=14)
DENSE = HashGridLayout(levels=2, log2_table_size=14, base_resolution=4, max_resolution=16)
needs_bfloat16 = pytest.mark.skipif(not precision.processor_bfloat16(), reason="no AVX512-BF16")


def scene(layout, count, hidden=16, outputs=4, seed=0):
    """Positions including the box corners, a table, two weights, and gradients of output and input gradient."""
    g = torch.Generator().manual_seed(seed)
    positions = torch.rand(count, 3, generator=g)
    corners = torch.tensor(list(product((0.0, 1.0), repeat=3)))[:count]
    positions[: len(corners)] = corners
    parameters = (
        torch.randn(layout.parameter_count, generator=g).requires_grad_(),
        torch.randn(hidden, layout.width, generator=g).requires_grad_(),
        torch.randn(outputs, hidden, generator=g).requires_grad_(),
    )
    return positions, parameters, torch.randn(count, outputs, generator=g), torch.randn(count, 3, generator=g)


def everything(layout, network, count=400, with_input_gradient=True, **sizes):
    """Output, input gradient, and the parameter gradients of random functionals of either and of both.

    `network`: the name of a backend, "bfloat16" for the bfloat16 kernels, or a function of the arguments.
    """
    positions, parameters, grad_output, grad_input_gradient = scene(layout, count, **sizes)
    if network == "bfloat16":
        output, input_gradient = hash_field(positions, *parameters, layout, with_input_gradient, "numba", "bfloat16")
    elif callable(network):
        output, input_gradient = network(positions, *parameters, layout, with_input_gradient)
    else:
        output, input_gradient = hash_field(positions, *parameters, layout, with_input_gradient, network)
    losses = {"output": (output * grad_output).sum()}
    results = {"output": output}
    if with_input_gradient:
        results["input_gradient"] = input_gradient
        loss = (input_gradient * grad_input_gradient).sum()
        losses |= {"input_gradient": loss, "both": losses["output"] + loss}
    for name, loss in losses.items():
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
        results |= {f"{name} to {i}": gradient for i, gradient in enumerate(gradients)}
    return {name: value.detach() for name, value in results.items()}


def assert_agree(fast, reference):
    assert fast.keys() == reference.keys()
    for name, expected in reference.items():
        scale = float(expected.abs().max()) if expected.numel() else 1.0
        torch.testing.assert_close(fast[name], expected, rtol=1e-4, atol=5e-6 * scale, msg=name)


def rounded(values):
    """Round to bfloat16 and back; straight-through gradient."""
    return values + (values.bfloat16().float() - values).detach()


def in_bfloat16(positions, table, hidden_weight, output_weight, layout, with_input_gradient):
    """The network with features and hidden weights rounded, all else in float32: what the kernels compute."""
    x = positions.clone().requires_grad_()
    features = rounded(hash_encode(x, table, layout, "torch"))
    output = torch.relu(features @ rounded(hidden_weight).t()) @ output_weight.t()
    return output, torch.autograd.grad(output[:, 0].sum(), x, create_graph=True)[0] if with_input_gradient else None


def assert_near(fast, reference, off):
    """`off`: largest allowed root-mean-square error, relative to that of the values."""
    assert fast.keys() == reference.keys()
    for name, expected in reference.items():
        error, size = ((v.square().sum()).sqrt() for v in (fast[name] - expected, expected))
        assert fast[name].shape == expected.shape and error <= off * size, (name, float(error / size))


@needs_bfloat16
@pytest.mark.parametrize("count", [0, 1, 127, 255, 257, 5000])
def test_the_kernels_in_bfloat16_are_the_network_of_rounded_features_and_weights(count):
    """Apart from these only gradients are rounded, to 8 bits."""
    fast, expected = everything(SMALL, "bfloat16", count), everything(SMALL, in_bfloat16, count)
    assert_agree({"output": fast["output"]}, {"output": expected["output"]})
    assert_near(fast, expected, 0.005)


@needs_bfloat16
@pytest.mark.parametrize("layout", [WIDE, FINE, DENSE], ids=["wide", "fine", "dense"])
@pytest.mark.parametrize(("hidden", "outputs"), [(1, 1), (64, 4), (7, 9)])
def test_the_kernels_in_bfloat16_fit_any_layout_and_width(layout, hidden, outputs):
    sizes = {"hidden": hidden, "outputs": outputs}
    assert_near(everything(layout, "bfloat16", **sizes), everything(layout, in_bfloat16, **sizes), 0.005)


@needs_bfloat16
def test_bfloat16_errors_stay_within_the_documented_bounds():
    """Outputs by 8 bits; gradients by more, as rounding switches nearly inactive units on and off."""
    fast, expected = everything(FINE, "bfloat16", 5000, hidden=64), everything(FINE, "torch", 5000, hidden=64)
    assert_near({"output": fast["output"]}, {"output": expected["output"]}, 0.005)
    assert_near(fast, expected, 0.06)


@needs_bfloat16
def test_threads_and_repetition_do_not_change_a_bit_of_bfloat16():
    runs = []
    for threads in (1, 1, 3):
        torch.set_num_threads(threads)
        runs.append(everything(SMALL, "bfloat16", 20_000))
    assert all(torch.equal(run[name], value) for run in runs[1:] for name, value in runs[0].items())


def test_bfloat16_is_refused_without_processor_support_and_auto_uses_it_with_support(monkeypatch):
    positions, parameters, *_ = scene(SMALL, 5)
    with pytest.raises(ValueError, match="precision is 'half', allowed are auto, bfloat16, float32"):
        hash_field(positions, *parameters, SMALL, precision="half")
    for has in (True, False):
        monkeypatch.setattr(precision, "processor_bfloat16", lambda has=has: has)
        assert precision.kernel_precision("auto") == ("bfloat16" if has else "float32")
        assert precision.kernel_precision("float32") == "float32"
        with monkeypatch.context() as m:
            m.setenv("NUMBA_CPU_NAME", "generic")
            assert precision.kernel_precision("auto") == "float32"
    with pytest.raises(UserError, match=r"lacks AVX512-BF16; type field\.precision=auto"):
        hash_field(positions, *parameters, SMALL, precision="bfloat16")


@pytest.mark.parametrize("count", [0, 1, 127, 255, 257, 5000])
def test_the_fused_field_matches_the_reference_for_any_number_of_positions(count):
    assert_agree(everything(SMALL, "numba", count), everything(SMALL, "torch", count))


@pytest.mark.skipif("triton" not in available("hash_field", torch.device("cpu")), reason="no triton")
@pytest.mark.parametrize("count", [0, 257])
def test_the_composition_over_triton_matches_the_reference(count):
    assert_agree(everything(SMALL, "triton", count), everything(SMALL, "torch", count))


def test_the_composition_over_kernels_computes_no_gradient_that_is_dropped(monkeypatch):
    """Not of the table for the input gradient, and none of the positions in the backward pass."""
    called = []
    for name in ("encode", "table_gradient", "position_gradient"):
        kernel = getattr(hash_grid_cpu, name)
        monkeypatch.setattr(hash_grid_cpu, name, lambda *g, n=name, k=kernel: called.append(n) or k(*g))
    positions, parameters, *_ = scene(SMALL, 50)
    output, input_gradient = composed(positions, *parameters, SMALL, True, "numba")
    assert called == ["encode", "position_gradient"]
    called.clear()
    (output.sum() + input_gradient.square().sum()).backward()
    assert sorted(called) == ["encode", "table_gradient", "table_gradient"]


def test_the_composition_over_numba_matches_the_reference():
    def network(*arguments):
        return composed(*arguments, "numba")

    assert_agree(everything(SMALL, network), everything(SMALL, "torch"))


@pytest.mark.parametrize("layout", [WIDE, FINE, DENSE], ids=["wide", "fine", "dense"])
def test_the_fused_field_matches_the_reference_for_other_layouts(layout):
    assert_agree(everything(layout, "numba"), everything(layout, "torch"))


@pytest.mark.parametrize(("hidden", "outputs"), [(1, 1), (64, 4), (7, 9)])
def test_the_fused_field_matches_the_reference_for_other_widths(hidden, outputs):
    sizes = {"hidden": hidden, "outputs": outputs}
    assert_agree(everything(SMALL, "numba", **sizes), everything(SMALL, "torch", **sizes))


@pytest.mark.parametrize("chosen", ["float32", pytest.param("bfloat16", marks=needs_bfloat16)])
def test_nan_propagates_through_the_hidden_layer(chosen):
    positions, (table, *weights), *_ = scene(SMALL, 300)
    output, _ = hash_field(positions, table.detach().fill_(torch.nan), *weights, SMALL, False, "numba", chosen)
    assert output.isnan().all()


def test_without_the_input_gradient_the_output_and_its_gradients_are_the_same():
    plain = everything(SMALL, "numba", with_input_gradient=False)
    assert_agree(plain, everything(SMALL, "torch", with_input_gradient=False))


def test_positions_outside_are_clamped_and_have_zero_input_gradient():
    _, parameters, *_ = scene(SMALL, 1)
    outside = torch.tensor([[-0.5, 0.3, 0.6], [0.2, 1.5, 7.0]])
    output, input_gradient = hash_field(outside, *parameters, SMALL, True, "numba")
    expected, expected_gradient = hash_field(outside, *parameters, SMALL, True, "torch")
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(input_gradient, expected_gradient, rtol=1e-4, atol=1e-4)
    assert torch.equal(input_gradient != 0, torch.tensor([[False, True, True], [True, False, False]]))
    fast = torch.autograd.grad(input_gradient.square().sum(), parameters)
    for actual, wanted in zip(fast, torch.autograd.grad(expected_gradient.square().sum(), parameters), strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def test_threads_and_repetition_do_not_change_a_bit():
    runs = []
    for threads in (1, 1, 2, 3, 4):
        torch.set_num_threads(threads)
        runs.append(everything(SMALL, "numba", 20_000))
    assert all(torch.equal(run[name], value) for run in runs[1:] for name, value in runs[0].items())


def test_only_needed_gradients_are_computed(monkeypatch):
    from dreamfusion.ops.hash_field import cpu as hash_field_cpu

    def forbidden(*_):
        raise AssertionError("computed")

    positions, (table, hidden, out), *_ = scene(SMALL, 50)
    output, input_gradient = hash_field(positions, table, hidden, out, SMALL, True, "numba")
    with monkeypatch.context() as m:
        m.setattr(hash_field_cpu, "scatter", forbidden)
        torch.autograd.grad(input_gradient.sum(), (hidden, out), retain_graph=True)
    with monkeypatch.context() as m:
        m.setattr(hash_field_cpu, "_jvp", forbidden)
        torch.autograd.grad(output.sum(), (table, hidden), retain_graph=True)
        torch.autograd.grad(input_gradient.sum(), table, retain_graph=True)
        m.setattr(hash_field_cpu, "_interpolate_jacobian", forbidden)
        hash_field(positions, table, hidden, out, SMALL, False, "numba")


def test_positions_that_need_a_gradient_take_the_composition():
    positions, parameters, grad_output, _ = scene(SMALL, 50)
    positions.requires_grad_()
    output, input_gradient = hash_field(positions, *parameters, SMALL, True)
    assert input_gradient.shape == (50, 3)
    (to_positions,) = torch.autograd.grad((output * grad_output).sum(), positions)
    assert to_positions.abs().max() > 0
    with pytest.raises(TypeError, match=r"gradient of the positions needed; backend .numba. takes torch.float32"):
        hash_field(positions, *parameters, SMALL, True, "numba")


def test_a_third_derivative_is_refused():
    positions, parameters, *_ = scene(SMALL, 5)
    _, input_gradient = hash_field(positions, *parameters, SMALL, True, "numba")
    (gradient,) = torch.autograd.grad(input_gradient.square().sum(), parameters[1], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_wrong_shapes_are_named():
    positions, (table, hidden, out), *_ = scene(SMALL, 5)
    with pytest.raises(ValueError, match=r"hash_field: hidden_weight has shape \(16, 9\), expected \(16, 10\)"):
        hash_field(positions, table, hidden[:, 1:], out, SMALL)
    with pytest.raises(ValueError, match=r"output_weight has shape \(4, 15\), expected \(4, 16\)"):
        hash_field(positions, table, hidden, out[:, 1:], SMALL)
    with pytest.raises(ValueError, match=r"table has shape \(7,\)"):
        hash_field(positions, table[:7], hidden, out, SMALL)
    with pytest.raises(ValueError, match=r"positions has shape \(5, 2\), expected \(any, 3\)"):
        hash_field(positions[:, :2], table, hidden, out, SMALL)


@pytest.mark.parametrize("with_input_gradient", [False, True])
@pytest.mark.parametrize("encoding", ["torch", "numba"])
def test_the_composition_gives_float32_in_mixed_precision(encoding, with_input_gradient):
    """`trainer.precision=bf16-mixed` on a device without the fused kernels: compositing takes float32."""
    positions, parameters, *_ = scene(SMALL, 50)
    with torch.autocast("cpu", torch.bfloat16):
        output, gradient = composed(positions, *parameters, SMALL, with_input_gradient, encoding)
    assert output.dtype == torch.float32
    exact, exact_gradient = composed(positions, *parameters, SMALL, with_input_gradient, encoding)
    assert ((output - exact).abs().max() < 0.05 * exact.abs().max()).all()
    if with_input_gradient:
        assert gradient.dtype == torch.float32
        assert ((gradient - exact_gradient).abs().max() < 0.05 * exact_gradient.abs().max()).all()
