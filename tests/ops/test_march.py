"""Ray marching: chords in closed form, occupancy, every backend against the reference, the nerfacc adapter."""

import inspect
from types import SimpleNamespace

import nerfacc
import pytest
import torch
from options import available
from torch.nn.functional import normalize

from dreamfusion.ops.march import march
from dreamfusion.types import RayBundle

BACKENDS = available("march", torch.device("cpu"))
KERNELS = [b for b in BACKENDS if b != "torch"]
THREADED = [b for b in KERNELS if b == "numba"]
RADIUS = 1.2


def camera_rays(count=300, distance=2.6, seed=0):
    """Rays from a sphere around the scene to points in and around it; some miss."""
    g = torch.Generator().manual_seed(seed)
    origins = normalize(torch.randn(count, 3, generator=g), dim=-1) * distance
    targets = torch.randn(count, 3, generator=g) * 0.6
    return RayBundle(origins, normalize(targets - origins, dim=-1))


def full(g=16):
    return torch.ones(g, g, g, dtype=torch.bool)


def chord_lengths(rays):
    """Chords of the sphere, in float64, by the quadratic formula."""
    o, d = rays.origins.double(), rays.directions.double()
    b = (o * d).sum(-1)
    root = b * b - (o * o).sum(-1) + RADIUS**2
    return 2 * root.clamp_min(0).sqrt()


def lengths(samples):
    return torch.zeros(len(samples.offsets) - 1).index_add(0, samples.ray, samples.t_end - samples.t_start)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_full_grid_is_sampled_along_the_whole_chord(backend):
    rays, step = camera_rays(), 0.01
    samples = march(rays, full(), RADIUS, step, backend=backend)
    assert (lengths(samples) - chord_lengths(rays)).abs().max() <= step / 2 + 1e-4
    torch.testing.assert_close(samples.t_end - samples.t_start, torch.full((len(samples),), step), rtol=0, atol=2e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_over_the_jitter_the_sampled_length_is_the_chord_on_average(backend):
    one, step, draws = camera_rays(1), 0.3, 4000
    rays = RayBundle(one.origins.expand(draws, 3), one.directions.expand(draws, 3))
    jitter = (torch.arange(draws) + 0.5) / draws
    samples = march(rays, full(), RADIUS, step, jitter, backend)
    assert lengths(samples).mean().item() == pytest.approx(chord_lengths(one).item(), rel=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_samples_are_packed_near_to_far_inside_the_sphere_at_the_jittered_strata(backend):
    rays, step = camera_rays(), 0.05
    jitter = torch.rand(len(rays), generator=torch.Generator().manual_seed(1))
    samples = march(rays, full(), RADIUS, step, jitter, backend)
    counts = torch.bincount(samples.ray, minlength=len(rays))
    assert torch.equal(samples.offsets[1:] - samples.offsets[:-1], counts)
    assert torch.equal(samples.ray, samples.ray.sort().values)
    same_ray = samples.ray[1:] == samples.ray[:-1]
    assert (samples.t_start[1:] > samples.t_start[:-1])[same_ray].all()
    assert (samples.positions.norm(dim=-1) <= RADIUS + 1e-5).all()
    middle = (samples.t_start + samples.t_end) / 2
    on_ray = rays.origins[samples.ray] + middle[:, None] * rays.directions[samples.ray]
    torch.testing.assert_close(samples.positions, on_ray, rtol=0, atol=1e-5)
    first = samples.offsets[:-1][counts > 0]
    depth = rays.origins[samples.ray[first]].square().sum(-1)  # |o|^2 = b^2 + h^2, near = b - chord / 2
    b = -(rays.origins * rays.directions).sum(-1)[samples.ray[first]]
    assert (depth >= b * b - 1e-4).all()
    near = b - chord_lengths(rays)[samples.ray[first]] / 2
    torch.testing.assert_close((middle[first] - near).float(), jitter[samples.ray[first]] * step, rtol=0, atol=2e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_empty_grid_and_rays_that_miss_give_nothing(backend):
    empty = march(camera_rays(), ~full(), RADIUS, 0.05, backend=backend)
    assert len(empty) == 0 and not empty.offsets.any() and len(empty.offsets) == 301
    away = RayBundle(torch.tensor([[0.0, 0, 3], [0, 2, 3]]), torch.tensor([[0.0, 0, 1], [0, 0, -1]]))
    assert len(march(away, full(), RADIUS, 0.05, backend=backend)) == 0
    nothing = march(RayBundle(torch.zeros(0, 3), torch.zeros(0, 3)), full(), RADIUS, 0.05, backend=backend)
    assert len(nothing) == 0 and nothing.offsets.tolist() == [0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_camera_inside_gets_no_samples_behind_it(backend):
    rays = RayBundle(torch.tensor([[0.0, 0.0, 0.5]]), torch.tensor([[0.0, 0.0, -1.0]]))
    samples = march(rays, full(), RADIUS, 0.01, backend=backend)
    assert lengths(samples).item() == pytest.approx(RADIUS + 0.5, abs=0.006)
    assert samples.positions[:, 2].max() < 0.5


@pytest.mark.parametrize("backend", BACKENDS)
def test_exactly_the_samples_in_marked_voxels_are_kept(backend):
    """Voxels are marked at random, so that swapped axes would fail."""
    rays, g = camera_rays(), 20
    occupancy = torch.rand(g, g, g, generator=torch.Generator().manual_seed(2)) < 0.1
    everything = march(rays, full(g), RADIUS, 0.02, backend=backend)
    x, y, z = ((everything.positions + RADIUS) * (g / (2 * RADIUS))).long().unbind(-1)
    marked = occupancy[x, y, z]
    kept = march(rays, occupancy, RADIUS, 0.02, backend=backend)
    assert 0 < len(kept) < len(everything)
    assert torch.equal(kept.positions, everything.positions[marked])
    assert torch.equal(kept.t_start, everything.t_start[marked])


def occupancies():
    g = torch.Generator().manual_seed(4)
    centre = (torch.arange(45) + 0.5) / 45 * 2 - 1
    distance = (centre[:, None, None] ** 2 + centre[None, :, None] ** 2 + centre[None, None] ** 2).sqrt()
    single = torch.zeros(64, 64, 64, dtype=torch.bool)
    single[40, 30, 33] = True
    return {
        "full": full(),
        "sparse": torch.rand(32, 32, 32, generator=g) < 0.01,
        "shell of 45 voxels": (distance - 0.5).abs() < 0.05,
        "one voxel": single,
        "one block": full(1),
    }


@pytest.mark.parametrize(
    ("backend", "name"),  # triton skips no blocks
    [(b, n) for b in KERNELS for n in occupancies() if b != "triton" or n == "sparse"],
)
def test_skipping_empty_blocks_gives_the_bits_of_the_reference(backend, name):
    occupancy = occupancies()[name]
    axes = RayBundle(torch.eye(3).repeat(2, 1) * 3 + 1e-3, torch.cat((-torch.eye(3), -torch.eye(3))))
    g = torch.Generator().manual_seed(5)
    for rays in (camera_rays(500), camera_rays(200, distance=0.4), axes):
        for step in (0.11, 0.003):
            for jitter in (None, torch.rand(len(rays), generator=g)):
                expected = march(rays, occupancy, RADIUS, step, jitter, "torch")
                actual = march(rays, occupancy, RADIUS, step, jitter, backend)
                for field in ("ray", "offsets", "t_start", "t_end", "positions"):
                    assert torch.equal(getattr(actual, field), getattr(expected, field)), (step, field)


@pytest.mark.parametrize("backend", THREADED)
def test_threads_do_not_change_a_bit(backend):
    rays, occupancy = camera_rays(500), occupancies()["sparse"]
    expected = march(rays, occupancy, RADIUS, 0.005, backend=backend)
    for threads in (2, 3, 4):
        torch.set_num_threads(threads)
        actual = march(rays, occupancy, RADIUS, 0.005, backend=backend)
        assert torch.equal(actual.positions, expected.positions) and torch.equal(actual.ray, expected.ray)


def test_wrong_arguments_are_named():
    rays = camera_rays(5)
    with pytest.raises(ValueError, match=r"occupancy is torch.float32 of shape \(4, 4, 4\), expected torch.bool"):
        march(rays, torch.ones(4, 4, 4), RADIUS, 0.1)
    with pytest.raises(ValueError, match="step is 0, both must be positive"):
        march(rays, full(), RADIUS, 0)
    with pytest.raises(ValueError, match=r"jitter has shape \(3,\), expected \(5,\)"):
        march(rays, full(), RADIUS, 0.1, torch.zeros(3))
    with pytest.raises(ValueError, match="march has no backend 'nerfacc' on cpu"):
        march(rays, full(), RADIUS, 0.1, backend="nerfacc")


def stand_in_for_traverse_grids(
    rays_o, rays_d, binaries, aabbs, near_planes=None, far_planes=None, step_size=1e-3, cone_angle=0.0
):
    """nerfacc's grid.cu for one grid, without its traversal: t grows step by step from the near plane,
    an interval is kept if its midpoint is in a marked voxel of the box and before the far plane."""
    assert cone_angle == 0 and binaries.shape[0] == 1
    low, high = aabbs[0, :3], aabbs[0, 3:]
    left, ray = [], []
    for r in range(len(rays_o)):
        t = near_planes[r]
        while t + step_size / 2 < far_planes[r]:
            unit = (rays_o[r] + (t + step_size / 2) * rays_d[r] - low) / (high - low)
            x, y, z = (unit * binaries.shape[1]).long().clamp(0, binaries.shape[1] - 1)
            if binaries[0, x, y, z]:
                left.append(float(t))
                ray.append(r)
            t = t + step_size
    starts = torch.tensor(left)
    edges = torch.stack((starts, starts + step_size), dim=-1).flatten()
    is_left = torch.tensor([True, False]).repeat(len(left))
    return SimpleNamespace(vals=edges, is_left=is_left), SimpleNamespace(ray_indices=torch.tensor(ray)), None


def test_the_nerfacc_adapter_gives_the_reference_samples(monkeypatch):
    from dreamfusion.ops.march import cuda as march_cuda

    signature = inspect.signature(nerfacc.traverse_grids)

    def call(*args, **kwargs):
        signature.bind(*args, **kwargs)  # the installed nerfacc takes these arguments
        return stand_in_for_traverse_grids(*args, **kwargs)

    monkeypatch.setattr(nerfacc, "traverse_grids", call)
    rays = camera_rays(40)
    jitter = torch.rand(len(rays), generator=torch.Generator().manual_seed(6))
    occupancy = torch.rand(6, 6, 6, generator=torch.Generator().manual_seed(7)) < 0.5
    expected = march(rays, occupancy, RADIUS, 0.07, jitter, "torch")
    actual = march_cuda.march(rays, occupancy, RADIUS, 0.07, jitter)
    assert torch.equal(actual.ray, expected.ray) and torch.equal(actual.offsets, expected.offsets)
    assert torch.equal(actual.t_start, expected.t_start) and torch.equal(actual.positions, expected.positions)
