"""Compositing: Beer-Lambert in closed form, invariants, derivatives, and every backend against the reference."""

import inspect
import math

import nerfacc
import pytest
import torch
from options import available

from dreamfusion.ops.composite import accumulate, composite
from dreamfusion.ops.march import march
from dreamfusion.types import RayBundle, RaySamples

CPU = torch.device("cpu")
BACKENDS = available("composite", CPU)
KERNELS = [b for b in BACKENDS if b != "torch"]
THREADED = [b for b in KERNELS if b == "numba"]


def packed(counts, seed=0, step=0.1):
    """Intervals of varying length, `counts[r]` of them on ray r."""
    g = torch.Generator().manual_seed(seed)
    total = sum(counts)
    ray = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    offsets = torch.tensor([sum(counts[:r]) for r in range(len(counts) + 1)])
    t_start = 2 + (torch.arange(total) - offsets[ray]) * step
    t_end = t_start + step * (0.2 + 0.8 * torch.rand(total, generator=g))
    return RaySamples(ray=ray, offsets=offsets, t_start=t_start, t_end=t_end, positions=torch.zeros(total, 3))


def rendered(samples, backend, seed=0, density_scale=20.0):
    """Weights, sums, and the gradients of a random functional of the sums."""
    g = torch.Generator().manual_seed(seed)
    density = (torch.rand(len(samples), generator=g) * density_scale).requires_grad_()
    values = [torch.randn(len(samples), channels, generator=g).requires_grad_() for channels in (3, 1, 5)]
    weights = composite(density, samples, backend)
    sums, depth, opacity = accumulate(weights, values, samples, backend)
    upstream = torch.randn(len(samples.offsets) - 1, 11, generator=g)
    gradients = torch.autograd.grad(torch.cat((sums, depth, opacity), dim=-1), (density, *values), upstream)
    names = ("weights", "sums", "depth", "opacity", "ddensity", "d3", "d1", "d5")
    return dict(zip(names, (weights, sums, depth, opacity, *gradients), strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("density", [0.05, 1.0, 30.0])
def test_opacity_of_a_homogeneous_sphere_follows_beer_lambert(backend, density):
    radius, step = 1.0, 0.004
    offset = torch.tensor([0.0, 0.3, 0.9, 1.1])  # of the ray from the centre
    origins = torch.stack((offset, torch.zeros(4), torch.full((4,), 3.0)), dim=-1)
    rays = RayBundle(origins, torch.tensor([0.0, 0.0, -1.0]).expand(4, 3))
    samples = march(rays, torch.ones(4, 4, 4, dtype=torch.bool), radius, step)
    weights = composite(torch.full((len(samples),), density), samples, backend)
    opacity = accumulate(weights, [], samples, backend)[2][:, 0]
    chord = 2 * (radius**2 - offset**2).clamp_min(0).sqrt()
    torch.testing.assert_close(opacity, 1 - torch.exp(-density * chord), rtol=0, atol=density * step / 2 + 1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_of_two_samples_match_the_formula(backend):
    samples = RaySamples(
        ray=torch.tensor([1, 1]),
        offsets=torch.tensor([0, 0, 2]),
        t_start=torch.tensor([0.0, 1.0]),
        t_end=torch.tensor([0.5, 3.0]),
        positions=torch.zeros(2, 3),
    )
    weights = composite(torch.tensor([2.0, 0.25]), samples, backend)
    expected = torch.tensor([1 - math.exp(-1), math.exp(-1) * (1 - math.exp(-0.5))])
    torch.testing.assert_close(weights, expected, rtol=1e-6, atol=0)
    sums, depth, opacity = accumulate(weights, [torch.tensor([[1.0, 0.0], [3.0, 1.0]])], samples, backend)
    torch.testing.assert_close(sums[1], torch.stack((expected[0] + 3 * expected[1], expected[1])), rtol=1e-6, atol=0)
    torch.testing.assert_close(depth[1], expected[:1] * 0.25 + expected[1:] * 2, rtol=1e-6, atol=0)
    torch.testing.assert_close(opacity[1], expected.sum(0, keepdim=True), rtol=1e-6, atol=0)
    assert not any(each[0].any() for each in (sums, depth, opacity))  # the ray without samples


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_are_positive_and_sum_to_at_most_one(backend):
    samples = packed([40, 0, 100, 1])
    for scale in (1e-6, 1.0, 1e4):
        result = rendered(samples, backend, density_scale=scale)
        assert (result["weights"] >= 0).all()
        assert (result["opacity"] <= 1 + 1e-6).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_thin_medium_keeps_its_relative_precision(backend):
    """1 - exp(-x) in float32 would be zero here."""
    samples = packed([3])
    density = torch.full((3,), 1e-8)
    expected = density * (samples.t_end - samples.t_start)
    torch.testing.assert_close(composite(density, samples, backend), expected, rtol=1e-5, atol=0)


def test_the_reference_passes_gradcheck():
    samples = packed([3, 0, 2])
    g = torch.Generator().manual_seed(1)
    density = (torch.rand(5, generator=g, dtype=torch.float64) * 9).requires_grad_()
    values = torch.randn(5, 2, generator=g, dtype=torch.float64).requires_grad_()

    def render(density, values):
        return torch.cat(accumulate(composite(density, samples, "torch"), [values], samples, "torch"), dim=-1)

    assert torch.autograd.gradcheck(render, (density, values))


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("counts", [[0, 0], [1], [5, 0, 1, 130, 0], [7] * 500, [400]])
def test_kernels_match_the_reference(backend, counts):
    samples = packed(counts)
    reference, kernel = rendered(samples, "torch"), rendered(samples, backend)
    for name, expected in reference.items():
        torch.testing.assert_close(kernel[name], expected, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("backend", THREADED)
def test_threads_and_repetition_do_not_change_a_bit(backend):
    samples = packed([50, 0, 3] * 500)  # 26,500: enough to use the threads
    runs = []
    for threads in (1, 1, 2, 3, 4):
        torch.set_num_threads(threads)
        runs.append(rendered(samples, backend))
    for run in runs[1:]:
        for name, first in runs[0].items():
            assert torch.equal(first, run[name]), name


@pytest.mark.parametrize("backend", KERNELS)
def test_a_second_derivative_is_refused(backend):
    density = torch.ones(3, requires_grad=True)
    weights = composite(density, packed([3]), backend)
    (first,) = torch.autograd.grad(weights.square().sum(), density, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_wrong_shapes_and_types_are_named():
    samples = packed([3])
    with pytest.raises(ValueError, match=r"composite: density has shape \(2,\), expected \(3,\)"):
        composite(torch.ones(2), samples)
    with pytest.raises(ValueError, match=r"accumulate: values has shape \(2, 4\), expected \(3, any\)"):
        accumulate(torch.ones(3), [torch.ones(3, 1), torch.ones(2, 4)], samples)
    for backend in KERNELS:
        with pytest.raises(TypeError, match=r"takes torch.float32, got torch.float64"):
            composite(torch.ones(3, dtype=torch.float64), samples, backend)


def test_the_nerfacc_adapter_calls_the_installed_nerfacc(monkeypatch):
    """The packed scan needs CUDA: arguments are checked against its signature, nerfacc's dense form replaces it."""
    from dreamfusion.ops.composite import cuda as composite_cuda

    signature, dense = inspect.signature(nerfacc.render_weight_from_density), nerfacc.render_weight_from_density

    def stand_in_ray_by_ray(*args, **kwargs):
        bound = signature.bind(*args, **kwargs).arguments
        parts = []
        for start, count in bound["packed_info"].tolist():
            own = slice(start, start + count)
            parts.append(dense(*(bound[name][own][None] for name in ("t_starts", "t_ends", "sigmas")))[0][0])
        return torch.cat(parts), None, None

    monkeypatch.setattr(nerfacc, "render_weight_from_density", stand_in_ray_by_ray)
    samples = packed([5, 1, 0, 30])
    density = torch.rand(36, generator=torch.Generator().manual_seed(2)) * 10
    weights = composite_cuda.composite(density, samples)
    torch.testing.assert_close(weights, composite(density, samples, "torch"), rtol=1e-4, atol=1e-6)
    values = torch.rand(2, 36, 3, generator=torch.Generator().manual_seed(3)).unbind()
    sums = composite_cuda.accumulate(weights, values, samples)  # nerfacc itself: it runs on the CPU
    torch.testing.assert_close(sums, accumulate(weights, values, samples, "torch"))
