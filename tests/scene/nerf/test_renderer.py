"""Both renderers compared with closed-form images of a homogeneous ball."""

from dataclasses import replace

import pytest
import torch

from dreamfusion.camera.rays import cast_rays
from dreamfusion.scene.background.solid import ConstantBackground
from dreamfusion.scene.nerf.occupancy import OccupancyRenderer
from dreamfusion.scene.nerf.stratified import StratifiedRenderer
from dreamfusion.scene.shading import LAMBERTIAN

BLUE = ConstantBackground([0.1, 0.2, 0.9])
SIDES = [0.0, 120.0, 250.0]


def occupancy(steps=400, resolution=32, radius=1.0, **changes):
    settings = {"threshold": 0.01, "decay": 0.5, "update_every": 4, "warmup": 1000} | changes
    return OccupancyRenderer(radius, resolution, steps, **settings)


def stratified(steps=400, radius=1.0):
    return StratifiedRenderer(radius, steps)


both = pytest.mark.parametrize("sampler", [stratified, occupancy])


def chords(cameras, radius):
    """Entry and exit distance of each ray through the ball, as images; equal for rays that miss."""
    rays = cast_rays(cameras)
    nearest = -(rays.origins * rays.directions).sum(-1)
    beside = (rays.origins + nearest[:, None] * rays.directions).square().sum(-1)
    half = (radius**2 - beside).clamp(min=0).sqrt()
    shape = (len(cameras), 1, cameras.height, cameras.width)
    return (nearest - half).clamp(min=0).view(shape), (nearest + half).clamp(min=0).view(shape)


@both
@pytest.mark.parametrize("density", [0.3, 3.0, 50.0])
def test_opacity_of_a_homogeneous_ball_matches_beer_lambert(sampler, density, ball, cameras_at):
    cameras = cameras_at(SIDES, [0.0, 40.0, -15.0], height=12)
    image = sampler()(cameras, ball(density, size=2.0), BLUE)
    near, far = chords(cameras, 1.0)
    # The marcher's intervals cover the chord to within half a step.
    tolerance = density * (2 / 400) / 2 + 1e-5
    torch.testing.assert_close(image.opacity, 1 - torch.exp(-density * (far - near)), atol=tolerance, rtol=0)


@both
def test_depth_is_the_expected_distance_along_the_ray(sampler, ball, cameras_at):
    """integral of t * density * exp(-density (t - near)) over the chord c."""
    cameras, density = cameras_at(SIDES, height=12), 3.0
    near, far = chords(cameras, 1.0)
    left = torch.exp(-density * (far - near))
    expected = near * (1 - left) + (1 - left) / density - (far - near) * left
    image = sampler()(cameras, ball(density, size=2.0), BLUE)
    torch.testing.assert_close(image.depth, expected, atol=0.02, rtol=0)
    assert (image.depth[image.opacity == 0] == 0).all()


@both
def test_a_coloured_ball_covers_the_background_by_its_opacity(sampler, ball, cameras_at):
    image = sampler()(cameras_at(SIDES, height=12), ball(3.0, size=0.7, color=(0.8, 0.3, 0.1)), BLUE)
    color, behind = (torch.tensor(c).view(1, 3, 1, 1) for c in ((0.8, 0.3, 0.1), (0.1, 0.2, 0.9)))
    torch.testing.assert_close(image.rgb, color * image.opacity + behind * (1 - image.opacity))
    missed = (image.opacity == 0).expand_as(image.rgb)
    assert missed.any()
    assert torch.equal(image.rgb[missed], behind.expand_as(image.rgb)[missed])
    torch.testing.assert_close(image.background, behind.flatten().expand(3, 3))


@both
def test_a_camera_inside_the_ball_renders_only_what_is_in_front(sampler, ball, cameras_at):
    """The paper's cameras stand inside its bounding sphere of radius 1.4."""
    cameras = cameras_at([0.0, 90.0], distance=1.1)
    near, far = chords(cameras, 1.4)
    assert (near == 0).all()
    image = sampler(radius=1.4)(cameras, ball(1.0, size=2.0, radius=1.4), BLUE)
    torch.testing.assert_close(image.opacity, 1 - torch.exp(-far), atol=0.01, rtol=0)


@both
def test_an_opaque_ball_lit_from_the_camera_matches_the_closed_form(sampler, ball, cameras_at):
    """In the middle n.l = 1; towards the rim, where the ray meets the ball at angle a to its normal, n.l falls."""
    cameras = cameras_at([0.0], height=33)
    image = sampler(1600)(cameras, ball(2000.0, size=0.5, color=(1.0, 0.5, 0.0)), BLUE, LAMBERTIAN)
    near, _ = chords(cameras, 0.5)
    rays = cast_rays(cameras)
    surface = rays.origins + near.view(-1, 1) * rays.directions
    normal = torch.nn.functional.normalize(surface, dim=-1)
    towards = torch.nn.functional.normalize(cameras.light - surface, dim=-1)
    factor = (0.1 + 0.9 * (normal * towards).sum(-1).clamp(min=0)).view(33, 33)
    solid = image.opacity[0, 0] > 0.999
    assert solid.sum() > 40
    assert factor[16, 16].item() == pytest.approx(1.0)
    torch.testing.assert_close(image.rgb[0, 0][solid], factor[solid], atol=0.02, rtol=0)
    torch.testing.assert_close(image.rgb[0, 1], image.rgb[0, 0] / 2 + 0.15 * (1 - image.opacity[0, 0]))


@both
def test_each_view_is_lit_by_its_own_light(sampler, ball, cameras_at):
    two, field = cameras_at([0.0, 120.0]), ball(200.0, size=0.6)
    two = replace(two, light=torch.tensor([[0.0, 0.0, 5.0], [0.0, 4.0, 0.0]]))
    together = sampler()(two, field, BLUE, LAMBERTIAN).rgb
    for view in range(2):
        torch.testing.assert_close(together[view : view + 1], sampler()(two.one(view), field, BLUE, LAMBERTIAN).rgb)
    swapped = sampler()(replace(two, light=two.light.flip(0)), field, BLUE, LAMBERTIAN).rgb
    assert ((together - swapped).abs().amax(dim=(1, 2, 3)) > 0.1).all()


@both
def test_a_ball_behind_the_camera_has_no_samples(sampler, ball, cameras_at):
    cameras = cameras_at([0.0], height=3)
    turned = cameras.camera_to_world.clone()
    turned[:, :, [0, 2]] *= -1  # half a turn around the vertical axis: it looks away
    image = sampler()(replace(cameras, camera_to_world=turned), ball(3.0, size=2.0), BLUE)
    assert len(image.samples) == 0 and (image.opacity == 0).all()


@both
def test_intervals_are_a_diameter_over_the_steps_long_and_sampled_in_the_middle_or_at_random(
    sampler, cameras_at, seeded
):
    radius, steps = 1.5, 50
    rays, renderer = cast_rays(cameras_at([0.0, 90.0], height=5)), sampler(steps, radius=radius)
    for generator in (None, seeded(1)):
        samples = renderer.sample(rays, generator)
        near = (samples.positions - rays.origins[samples.ray]).norm(dim=-1)  # of the sample, from the camera
        inside = (near - samples.t_start) / (samples.t_end - samples.t_start)
        most = torch.bincount(samples.ray, minlength=len(rays)).max()
        middle = samples.ray == 12  # of the first view: its chord is the diameter
        torch.testing.assert_close(
            (samples.t_end - samples.t_start)[middle],
            torch.full((int(middle.sum()),), 2 * radius / steps),
            atol=1e-5,
            rtol=0,
        )
        assert steps <= most <= renderer.most_samples <= steps + 1
        if generator is None or sampler is occupancy:  # which jitters where its intervals begin
            torch.testing.assert_close(inside, torch.full_like(inside, 0.5), atol=1e-3, rtol=0)
        else:
            assert 0 <= inside.min() < 0.02 and 0.98 < inside.max() <= 1.001
            assert inside.mean().item() == pytest.approx(0.5, abs=0.05)


@both
def test_requested_normals_are_weighted_by_opacity(sampler, ball, cameras_at):
    cameras = cameras_at([0.0], height=9)
    image = sampler()(cameras, ball(500.0, size=0.6), BLUE, with_normal=True)
    torch.testing.assert_close(image.normal[0, :, 4, 4], torch.tensor([0.0, 0.0, 1.0]), atol=0.01, rtol=0)
    assert (image.normal.norm(dim=1, keepdim=True) <= image.opacity + 1e-5).all()
    assert image.sample_normal.shape == (len(image.samples), 3)
    assert sampler()(cameras, ball(), BLUE).normal is None


@both
def test_samples_are_jittered_by_the_generator_only(sampler, tiny_field, cameras_at, seeded):
    cameras, field, renderer = cameras_at([0.0, 90.0]), tiny_field(strong=True), sampler(24)
    images = [renderer(cameras, field, BLUE, generator=seeded(s)).rgb for s in (1, 1, 2)]
    still = [renderer(cameras, field, BLUE).rgb for _ in range(2)]
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])
    assert torch.equal(still[0], still[1])
    many = torch.stack([renderer(cameras, field, BLUE, generator=seeded(s)).rgb for s in range(60)]).mean(0)
    torch.testing.assert_close(many, still[0], atol=0.06, rtol=0)


@both
def test_the_image_has_gradients_to_the_field(sampler, tiny_field, cameras_at):
    field = tiny_field(strong=True)
    sampler(24)(cameras_at([0.0]), field, BLUE, LAMBERTIAN).rgb.sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().max() > 0 for p in field.parameters())


@pytest.mark.parametrize("with_normal", [False, True])
def test_a_step_over_the_bound_in_bytes_keeps_less_and_has_the_same_gradients(
    with_normal, tiny_field, cameras_at, seeded, monkeypatch
):
    cameras, kept, gradients, images = cameras_at(SIDES, height=16), [], [], []
    for bound in (2**30, 2**17):
        monkeypatch.setattr("dreamfusion.scene.nerf.renderer.STEP", bound)
        field = tiny_field(strong=True)
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, saved=saved: saved.append(x.nbytes) or x, lambda x: x):
            image = stratified(steps=64)(cameras, field, BLUE, with_normal=with_normal, generator=seeded(0))
        image.rgb.square().sum().backward() if not with_normal else (image.rgb + image.normal).square().sum().backward()
        kept.append(sum(saved))
        gradients.append([parameter.grad for parameter in field.parameters()])
        images.append(image.rgb)
    assert kept[1] < kept[0]
    torch.testing.assert_close(*images)
    torch.testing.assert_close(*gradients)


def test_stratified_and_occupancy_agree_on_a_full_grid(tiny_field, cameras_at):
    cameras, field = cameras_at(SIDES, [0.0, 60.0, -15.0], height=12), tiny_field(strong=True)
    a, b = (sampler(800)(cameras, field, BLUE, LAMBERTIAN, True) for sampler in (stratified, occupancy))
    for name in ("rgb", "opacity", "depth", "normal"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), atol=0.01, rtol=0)


def test_the_grid_empties_where_the_field_is_empty_and_the_image_stays(ball, cameras_at):
    torch.manual_seed(0)
    renderer, field, cameras = occupancy(steps=100), ball(20.0, size=0.5), cameras_at(SIDES, height=12)
    before = renderer(cameras, field, BLUE)
    assert renderer.grid.binaries.all()
    for step in range(0, 200, 4):
        renderer.update(field, step)
    after = renderer(cameras, field, BLUE)
    share = renderer.grid.binaries.float().mean().item()
    volume = 4 / 3 * torch.pi * 0.5**3 / 2**3
    assert volume < share < 2 * volume  # the ball, and the cells on its surface
    assert len(after.samples) < 0.3 * len(before.samples)
    torch.testing.assert_close(after.rgb, before.rgb, atol=2e-3, rtol=0)


@pytest.mark.parametrize(("density", "share"), [(0.4, 0.25), (0.6, 0.5)], ids=["below", "above"])
def test_a_cell_is_empty_if_a_step_in_it_is_less_opaque_than_the_threshold(density, share):
    """A step of 0.02 through the density 0.4 has the opacity 0.008, through 0.6 it has 0.012; the threshold is 0.01."""
    renderer = occupancy(steps=100, resolution=16, decay=0.0)

    class Layers:
        def density(self, positions):
            return 50.0 * (positions[:, 0] > 0.5) + density * ((positions[:, 0] > 0) & (positions[:, 0] <= 0.5))

    with torch.random.fork_rng():
        renderer.update(Layers(), 0)
    assert renderer.grid.binaries.float().mean().item() == pytest.approx(share)


def test_in_a_scene_that_is_thin_everywhere_the_mean_decides_which_cells_are_empty():
    renderer = occupancy(steps=100, resolution=16, decay=0.0)

    class Thin:
        def density(self, positions):
            return 0.1 * (positions[:, 0] > 0)  # opacity 0.002, on average 0.001

    with torch.random.fork_rng():
        renderer.update(Thin(), 0)
    assert renderer.grid.binaries.float().mean().item() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "renderer.steps is 0; a ray needs at least 1"),
        ({"resolution": 0}, "renderer.resolution is 0, renderer.update_every 4; both must be at least 1"),
        ({"update_every": 0}, "renderer.resolution is 32, renderer.update_every 0; both must be at least 1"),
    ],
)
def test_numbers_of_steps_and_cells_of_zero_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        occupancy(**changes)
    with pytest.raises(ValueError, match=r"renderer\.steps is 0; a ray needs at least 1"):
        stratified(steps=0)
    assert occupancy(steps=1, resolution=1, update_every=1).most_samples == 2


def test_the_grid_follows_a_field_that_shrinks_and_grows(ball):
    torch.manual_seed(0)
    renderer, shares = occupancy(steps=100), []
    for size in (0.6, 0.3, 0.6):
        for step in range(0, 200, 4):
            renderer.update(ball(20.0, size=size), step)
        shares.append(renderer.grid.binaries.float().mean().item())
    assert shares[1] < 0.25 * shares[0]
    assert shares[2] == pytest.approx(shares[0], rel=0.05)


def test_an_empty_field_renders_the_background_without_samples(ball, cameras_at):
    renderer = occupancy()
    renderer.update(ball(0.0), 0)
    image = renderer(cameras_at([0.0]), ball(0.0), BLUE, LAMBERTIAN, with_normal=True)
    assert len(image.samples) == 0
    assert (image.opacity == 0).all()
    torch.testing.assert_close(image.rgb, BLUE.color.view(1, 3, 1, 1).expand_as(image.rgb))


def test_the_grid_is_updated_every_few_steps_only(ball):
    renderer = occupancy(update_every=4)
    for step in (1, 2, 3):
        renderer.update(ball(0.0), step)
    assert renderer.grid.binaries.all()
    renderer.update(ball(0.0), 4)
    assert not renderer.grid.binaries.any()


def test_an_update_after_the_warm_up_visits_the_occupied_cells_and_a_part_of_the_others_once_each():
    """Of two values written to one cell, the last thread's would stay: runs would differ."""
    renderer, visited = occupancy(resolution=32, warmup=0), []
    renderer.grid.binaries.fill_(False)
    renderer.grid.binaries[0, 4:9] = True
    cells = renderer.grid.binaries[0].sum()

    class Field:
        def density(self, positions):
            visited.append(((positions + 1) / 2 * 32).long())
            return torch.ones(len(positions))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        renderer.update(Field(), 4)
    (places,) = visited
    assert len(places.unique(dim=0)) == len(places)
    assert ((places[:, 0] >= 4) & (places[:, 0] < 9)).sum() == cells
    assert 0.15 < (len(places) - cells) / (32**3 - cells) < 0.3
