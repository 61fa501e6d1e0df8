"""Feature volume rendering: the kernel against the reference, and both against closed forms."""

import math

import pytest
import torch
from options import available

from dreamfusion.ops.feature_volume import render_feature_volume

BACKENDS = available("render_feature_volume", torch.device("cpu"))
KERNELS = [b for b in BACKENDS if b != "torch"]


def scene(volumes=2, side=6, heads=2, features=3, rays=7, depths=5, reach=1.3, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    volume = torch.randn(volumes, side, side, side, heads * (1 + features), generator=generator, dtype=dtype)
    points = (torch.rand(volumes, rays, depths, 3, generator=generator, dtype=dtype) * 2 - 1) * reach
    return volume, points


@pytest.mark.parametrize(
    ("backend", "threads", "rays", "volumes", "depths"),
    [
        (b, threads, *sizes)
        for b, threads in (("numba", 1), ("numba", 2), ("triton", 1))
        for sizes in ((7, 2, 5), (256, 33, 5), (40, 3, 70), (0, 2, 5), (3, 0, 5))
        if b in KERNELS and (b != "triton" or sizes[0] < 256)
    ],
)
def test_the_kernel_agrees_with_the_reference_and_so_does_its_gradient(backend, threads, rays, volumes, depths):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        volume, points = scene(rays=rays, volumes=volumes, depths=depths)
        gradients = []
        for name in ("torch", backend):
            leaf = volume.clone().requires_grad_()
            seen = render_feature_volume(leaf, points, 2, name)
            assert seen.shape == (volumes, rays, 2 * 5)
            (seen * torch.cos(torch.arange(seen.numel()).view_as(seen))).sum().backward()
            gradients.append((seen.detach(), leaf.grad))
        torch.testing.assert_close(gradients[1][0], gradients[0][0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(gradients[1][1], gradients[0][1], atol=2e-5, rtol=1e-3)
    finally:
        torch.set_num_threads(before)


def test_a_constant_volume_is_an_exponential_fog():
    """Optical depth softplus(1) a sample: opacity 1 - exp(-D softplus(1)), which scales the feature."""
    volume = torch.ones(1, 4, 4, 4, 2)
    volume[..., 1] = 3.0
    points = torch.zeros(1, 1, 5, 3)
    opacity = 1 - math.exp(-5 * math.log1p(math.e))
    for backend in BACKENDS:
        seen = render_feature_volume(volume, points, 1, backend)[0, 0]
        assert seen[0] == pytest.approx(opacity, rel=1e-5)
        assert seen[2] == pytest.approx(3 * opacity, rel=1e-5)


def test_samples_in_front_occlude_samples_behind():
    volume = torch.full((1, 2, 1, 1, 2), -30.0).expand(1, 2, 2, 2, 2).clone()
    volume[0, 0, :, :, 0], volume[0, 0, :, :, 1] = 30.0, 1.0  # z = -0.5
    volume[0, 1, :, :, 0], volume[0, 1, :, :, 1] = 30.0, 5.0  # z = +0.5
    front = torch.tensor([[0.0, 0.0, 0.5], [0.0, 0.0, -0.5]])
    for backend in BACKENDS:
        seen = render_feature_volume(volume, torch.stack([front, front.flip(0)])[None], 1, backend)[0]
        torch.testing.assert_close(seen[:, 2], torch.tensor([5.0, 1.0]))
        torch.testing.assert_close(seen[:, 0], torch.ones(2))
        torch.testing.assert_close(seen[:, 1], torch.full((2,), 0.25))  # both hit the first of two samples


def test_gradients_of_the_reference_by_finite_differences():
    volume, points = scene(side=3, rays=2, depths=3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda v: render_feature_volume(v, points, 2, "torch"), volume.requires_grad_())


def test_wrong_shapes_and_types_are_named():
    volume, points = scene()
    with pytest.raises(ValueError, match=r"volume: volume has shape \(2, 6, 6, 6, 8\), expected \(G, N, N, N, 3 \(1"):
        render_feature_volume(volume, points, 3)
    with pytest.raises(ValueError, match=r"volume: points has shape \(1, 7, 5, 3\), expected \(2, any, any, 3\)"):
        render_feature_volume(volume, points[:1], 2)
    for backend in KERNELS:
        with pytest.raises(TypeError, match=r"takes torch.float32, got torch.float64"):
            render_feature_volume(volume.double(), points.double(), 2, backend)
