from dataclasses import replace

import pytest
import torch
from options import available, option

from dreamfusion.camera.rays import project
from dreamfusion.ops.parity import deviation
from dreamfusion.ops.splat import FAINTEST, MOST, Screen, splat
from dreamfusion.ops.splat.projection import BLUR, project_gaussians, rotation_matrices

CPU = torch.device("cpu")
BACKENDS = available("splat", CPU)
KERNELS = [backend for backend in BACKENDS if backend != "torch"]
H, W = 24, 34


def camera(azimuths=(0.0,), height=H, width=W):
    return option("camera/orbit").view(torch.tensor(azimuths), 10.0, height, width)


def doubled(cameras):
    fields = ("camera_to_world", "fov", "azimuth", "elevation", "distance", "light")
    return replace(cameras, **{name: getattr(cameras, name).double() for name in fields})


def cloud(count, seed=0, spread=0.4):
    """Means, scales, quaternions, opacities and colours."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(count, 7, generator=generator)
    drawn = torch.rand(count, 7, generator=generator)
    return normal[:, :3] * spread, 0.02 + 0.15 * drawn[:, :3], normal[:, 3:], drawn[:, 3], drawn[:, 4:]


def draw(gaussians, cameras, backend=None):
    means, scales, rotations, opacities, colors = gaussians
    screen = project_gaussians(cameras, means, scales, rotations)
    features = colors.expand(len(cameras), -1, -1)
    return splat(screen, opacities, features, cameras.height, cameras.width, backend)


def gradients(gaussians, cameras, backend):
    leaves = [part.clone().requires_grad_() for part in gaussians]
    values, opacity = draw(leaves, cameras, backend)
    along = torch.randn(*opacity.shape, 4, generator=torch.Generator().manual_seed(1))
    loss = (values * along[..., :3]).sum() + (opacity * along[..., 3]).sum()
    return [values.detach(), opacity.detach(), *torch.autograd.grad(loss, leaves)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_round_gaussian_is_a_round_bell_as_wide_as_the_perspective_makes_it(backend):
    cameras, sigma, opacity = camera(height=31, width=31), 0.2, torch.tensor([0.8])
    turn = torch.tensor([[0.3, -0.5, 0.1, 0.7]])
    round_one = (torch.zeros(1, 3), torch.full((1, 3), sigma), turn, opacity, torch.tensor([[1.0, 0.5, 0.0]]))
    values, alpha = draw(round_one, cameras, backend)
    focal = 31 / 2 / torch.tan(torch.deg2rad(cameras.fov[0]) / 2)
    own = (focal * sigma / cameras.distance[0]) ** 2
    variance = own + BLUR
    line = torch.arange(31) - 15.0
    wanted = 0.8 * (own / variance) * torch.exp(-(line[:, None] ** 2 + line**2) / (2 * variance))
    wanted = torch.where(wanted < FAINTEST, 0.0, wanted)
    torch.testing.assert_close(alpha[0], wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(values[0], wanted[..., None] * torch.tensor([1.0, 0.5, 0.0]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_nearer_gaussian_hides_the_share_of_its_alpha(backend):
    means = torch.full((1, 2, 2), 8.5)
    conics = torch.tensor([0.1, 0.0, 0.1]).expand(1, 2, 3)
    screen = Screen(means, conics, torch.ones(1, 2), torch.tensor([[3.0, 2.0]]))  # the second is nearer
    values, alpha = splat(screen, torch.tensor([1.0, 0.6]), torch.eye(2)[None], 17, 17, backend)
    torch.testing.assert_close(values[0, 8, 8], torch.tensor([0.4 * MOST, 0.6]))
    torch.testing.assert_close(alpha[0, 8, 8], torch.tensor(1 - 0.4 * (1 - MOST)))


@pytest.mark.parametrize("backend", KERNELS)
def test_the_kernel_agrees_with_the_reference_in_values_and_gradients(backend):
    assert deviation("splat", backend, CPU) < 1e-5


def test_the_reference_draws_in_float32_in_mixed_precision():
    gaussians = cloud(20)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = draw(gaussians, camera(), "torch")
    assert all(torch.equal(*pair) for pair in zip(mixed, draw(gaussians, camera(), "torch"), strict=True))


def needle(scales):
    gaussian = list(cloud(1))
    gaussian[0], gaussian[1] = torch.zeros(1, 3), torch.tensor([scales])
    return gaussian


def pile(count):
    """Opaque Gaussians behind each other, of which the first few let less than 1e-4 pass."""
    means, _, rotations, opacities, colors = cloud(count, spread=0.05)
    return means, torch.full((count, 3), 0.3), rotations, torch.ones_like(opacities), colors


CASES = {
    "none": cloud(0),
    "one": cloud(1),
    "many": cloud(40),
    "points": needle([1e-9, 1e-9, 1e-9]),
    "needle": needle([1e-6, 1e-6, 30.0]),
    "sheet": needle([1e-6, 2.0, 2.0]),
    "larger than the picture": needle([50.0, 50.0, 50.0]),
    "opaque": pile(70),
    "far outside": [cloud(1)[0] + torch.tensor([1e6, 0.0, 0.0]), *cloud(1)[1:]],
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("backend", KERNELS)
def test_degenerate_gaussians_are_finite_and_equal_for_every_backend(case, backend):
    cameras = camera((20.0, 200.0))
    for found, wanted in zip(*(gradients(CASES[case], cameras, one) for one in (backend, "torch")), strict=True):
        assert found.isfinite().all()
        largest = max([1.0, *wanted.abs().flatten().tolist()])
        torch.testing.assert_close(found, wanted, atol=2e-4 * largest, rtol=0)


@pytest.mark.parametrize("backend", KERNELS)
def test_long_needles_in_large_pictures_are_drawn_as_by_the_reference(backend):
    """Rounding leaves nothing, or less, of the determinant of their conics."""
    count, size = 30, 64 if backend == "triton" else 512
    means, _, turns, opacities, colors = cloud(count, spread=0.2)
    scales = torch.tensor([1000.0, 1e-3, 1e-3]).expand(count, 3)
    cameras = camera(height=size, width=size)
    conics = project_gaussians(cameras, means, scales, turns).conics[0]
    assert size < 512 or (conics[:, 0] * conics[:, 2] - conics[:, 1] ** 2 <= 0).any()
    (values, alpha), (wanted, full) = (
        draw((means, scales, turns, opacities, colors), cameras, one) for one in (backend, "torch")
    )
    assert full.sum() > 20
    torch.testing.assert_close(alpha, full, atol=0.02, rtol=0)
    torch.testing.assert_close(values, wanted, atol=0.02, rtol=0)


def test_numbers_that_are_none_end_no_process():
    gaussians = [part.clone() for part in cloud(8)]
    for part in gaussians[:3]:
        part[::2] = float("nan")
    gaussians[1][1] = float("inf")
    values, _ = draw(gaussians, camera(), "numba")
    assert values.shape == (1, H, W, 3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gaussians_behind_or_at_the_camera_and_faint_ones_are_not_drawn_and_get_no_gradient(backend):
    cameras = camera()
    position = cameras.camera_to_world[0, :, 3]
    means = torch.stack([2 * position, position, torch.zeros(3)])
    scales, turn = torch.full((3, 3), 0.3), torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(3, 4)
    faint = (means, scales, turn, torch.tensor([0.9, 0.9, FAINTEST / 2]), torch.ones(3, 3))
    values, alpha, *slopes = gradients(faint, cameras, backend)
    assert not values.any() and not alpha.any()
    assert not any(slope.any() for slope in slopes)


def test_projection_and_reference_have_the_gradient_of_finite_differences():
    cameras = doubled(camera((30.0, 120.0), 9, 12))
    given = [part.double().requires_grad_() for part in cloud(4)]
    with torch.no_grad():
        given[3].mul_(0.7).add_(0.1)
    along = torch.randn(2, 9, 12, 4, generator=torch.Generator().manual_seed(1)).double()

    def loss(*parts):
        values, opacity = draw(parts, cameras, "torch")
        return (values * along[..., :3]).sum() + (opacity * along[..., 3]).sum()

    assert torch.autograd.gradcheck(loss, given, eps=1e-6, atol=1e-5)


def test_the_shape_on_the_screen_is_that_of_the_projections_jacobian():
    """Far off the axis, where the slope of the ray counts; within the image, where it is not limited."""
    cameras = doubled(camera((30.0,), 48, 60))
    means, scales, rotations, *_ = (part.double() for part in cloud(12, spread=0.3))
    screen = project_gaussians(cameras, means, scales, rotations)
    a, b, c = screen.conics[0].unbind(-1)
    found = torch.stack([a, b, b, c], dim=-1).view(-1, 2, 2).inverse()
    axes = rotation_matrices(rotations) * scales[:, None]
    for i, mean in enumerate(means):
        jacobian = torch.autograd.functional.jacobian(lambda point: project(cameras, point[None, None])[0, 0], mean)
        wanted = jacobian @ axes[i] @ axes[i].T @ jacobian.T + BLUR * torch.eye(2).double()
        torch.testing.assert_close(found[i], wanted)


def test_renders_of_all_sizes_show_the_same_opacity_of_what_is_thinner_than_a_pixel():
    means, _, rotations, _, colors = cloud(30)
    thin = (means, torch.tensor([[0.02, 0.01, 0.005]]).expand(30, 3), rotations, torch.full((30,), 0.9), colors)
    mean = [float(draw(thin, camera(height=side, width=side))[1].mean()) for side in (32, 256)]
    assert mean[0] == pytest.approx(mean[1], rel=0.1)


def test_quaternions_of_any_length_are_rotations():
    matrices = rotation_matrices(torch.randn(5, 4, generator=torch.Generator().manual_seed(0)) * 3)
    torch.testing.assert_close(matrices @ matrices.mT, torch.eye(3).expand(5, 3, 3), atol=1e-6, rtol=0)
    quarter = rotation_matrices(torch.tensor([[1.0, 0.0, 0.0, 1.0]]))[0]  # about z
    torch.testing.assert_close(quarter, torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("backend", KERNELS)
def test_gradients_are_bitwise_equal_from_run_to_run_and_a_batch_is_its_views(backend):
    cameras = camera((20.0, 110.0, 200.0))
    first, again = (gradients(cloud(60), cameras, backend) for _ in range(2))
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    one = draw(cloud(60), cameras.one(1), backend)
    assert torch.equal(first[0][1:2], one[0])


def test_what_does_not_fit_is_refused():
    screen = Screen(torch.zeros(1, 2, 2), torch.ones(1, 2, 3), torch.ones(1, 2), torch.ones(1, 2))
    with pytest.raises(ValueError, match="splat: opacities"):
        splat(screen, torch.ones(3), torch.ones(1, 2, 3), 8, 8)
    for backend in KERNELS:
        with pytest.raises(TypeError, match=r"takes torch\.float32"):
            splat(screen, torch.ones(2).double(), torch.ones(1, 2, 3), 8, 8, backend)
