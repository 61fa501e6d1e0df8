import numpy as np
import pytest
import torch
import trimesh
from hydra.utils import instantiate
from omegaconf import OmegaConf
from options import CONF, export_settings, option
from training import assert_same

from dreamfusion.camera.rays import cast_rays
from dreamfusion.error import UserError
from dreamfusion.mesh.extract import extract_surface
from dreamfusion.mesh.metrics import compare
from dreamfusion.ops.rasterize import RasterMesh
from dreamfusion.scene.background.solid import ConstantBackground
from dreamfusion.scene.gaussians.growth import Growth, split_in_two
from dreamfusion.scene.gaussians.scene import GaussianScene, surface
from dreamfusion.scene.picture import render_picture, render_views
from dreamfusion.scene.shading import LAMBERTIAN, Shading

ORBIT = option("camera/orbit")
BALL = trimesh.creation.icosphere(4, 0.7)
SEEN = 0.79  # its radius as 1,500 Gaussians: two standard deviations more


def growth(**changes):
    return Growth(**({"every": 2, "until": 100, "share": 0.2, "split": 0.05, "faint": 0.01} | changes))


def make(count=60, most=100, **changes):
    torch.manual_seed(0)
    settings = {"radius": 1.0, "degree": 0, "ball": 0.5, "opacity": 0.1, "growth": growth()} | changes
    return GaussianScene(option("background/constant"), count=count, most=most, **settings)


def view(size=24):
    return ORBIT.view(torch.tensor([20.0, 200.0]), 15.0, size, size)


def colored(mesh):
    """Red on the right, blue on the left."""
    colors = np.where(mesh.vertices[:, :1] > 0, [[0.9, 0.1, 0.1]], [[0.1, 0.1, 0.9]])
    return RasterMesh(np.asarray(mesh.vertices), np.asarray(mesh.faces), colors=colors)


def adam(scene):
    return torch.optim.Adam(scene.parameters(), lr=1e-2)


def train(scene, optimizer, steps):
    """Towards a red picture."""
    counts = []
    for step in steps:
        optimizer.zero_grad()
        out = scene.render(view(), generator=torch.Generator().manual_seed(step))
        (out.rgb - torch.tensor([1.0, 0.0, 0.0])[:, None, None]).square().sum().backward()
        scene.after_backward(step, step / 100, optimizer)
        optimizer.step()
        counts.append(int(scene.count))
    return counts


def started(count=1500):
    scene = make(count, count)
    scene.start_from(colored(BALL))
    return scene


@torch.no_grad()
def test_a_start_is_drawn_with_the_depth_normals_and_colours_of_its_mesh():
    scene, cameras = started(), view(64)
    out = scene.render(cameras, LAMBERTIAN)
    # A ball of radius r at distance a is a disc of the tangent r / sqrt(a^2 - r^2).
    tangent = SEEN / np.sqrt(9 - SEEN**2) / np.tan(np.radians(20.0))
    assert float(out.opacity.mean()) == pytest.approx(np.pi * (tangent / 2) ** 2, rel=0.1)
    seen = render_picture(scene, cameras.one(0), with_normal=True)
    assert float(np.median(seen.depth[28:36, 28:36])) == pytest.approx(2.3, abs=0.08)
    towards = torch.nn.functional.normalize(cameras.camera_to_world[0, :, 3], dim=0).numpy()
    assert float((seen.normal[24:40, 24:40] @ towards).mean()) > 0.85
    np.testing.assert_allclose(seen.color[32, 44], [0.9, 0.1, 0.1], atol=0.1)
    assert float(out.rgb[0, :, 32, 44].max()) < 0.9  # shaded


@torch.no_grad()
def test_ambient_light_alone_scales_the_colours_and_not_the_background():
    scene = make()
    black, white = (ConstantBackground([grey] * 3) for grey in (0.0, 1.0))
    plain = scene.render(view(), background=black).rgb
    dim = scene.render(view(), Shading(ambient=0.5), background=white)
    assert plain.max() > 0.05
    torch.testing.assert_close(dim.rgb, plain / 2 + 1 - dim.opacity)


def test_the_surface_of_a_tilted_plane_has_its_points_and_its_normal():
    cameras, normal = view(16), torch.nn.functional.normalize(torch.tensor([0.2, 0.5, 1.0]), dim=0)
    cameras = cameras.one(0)
    rays = cast_rays(cameras)
    depth = -(rays.origins @ normal) / (rays.directions @ normal)
    points, found = surface(cameras, rays, depth.view(1, 16, 16, 1), torch.ones(1, 16, 16, 1))
    assert (points @ normal).abs().max() < 2e-3
    torch.testing.assert_close(points.view(-1, 3), rays.origins + depth[:, None] * rays.directions, atol=2e-3, rtol=0)
    torch.testing.assert_close(found[0, 1:-1, 1:-1].reshape(-1, 3), normal.expand(196, 3), atol=2e-3, rtol=0)


@torch.no_grad()
def test_strips_give_the_same_picture_as_the_whole():
    scene, cameras = started(300), view(32).one(0)
    whole = scene.render(cameras, LAMBERTIAN)
    parts = [scene.render(cameras, LAMBERTIAN, rows=slice(top, top + 8)) for top in range(0, 32, 8)]
    torch.testing.assert_close(torch.cat([part.rgb for part in parts], dim=2), whole.rgb)
    assert render_views(scene, cameras).rgb.shape == (1, 3, 32, 32)


def test_the_export_gives_back_the_shape_and_colours_of_a_start():
    scene = started().requires_grad_(False)
    found = extract_surface(scene, ORBIT, export_settings(texture=0, resolution=48))
    assert found.watertight
    assert np.linalg.norm(found.mesh.vertices, axis=1) == pytest.approx(SEEN, abs=0.03)
    metrics = compare(scene, ORBIT, found.mesh)
    assert metrics.iou > 0.95
    assert metrics.color_difference < 0.06


@pytest.mark.parametrize("degree", [0, 1])
def test_every_parameter_has_a_learning_rate_and_only_the_gaussians_a_gradient(degree):
    scene = make(degree=degree)
    scene.render(view(), generator=torch.Generator()).rgb.square().sum().backward()
    groups = scene.parameter_groups()
    assert {id(p) for group in groups.values() for p in group} == {id(p) for p in scene.parameters()}
    assert [*groups] == ["position", "color", "opacity", "scale", "rotation", *["directional"] * degree, "network"]
    for name in ("position", "color", "opacity", "scale", *["directional"] * degree):
        gradient = getattr(scene, name).grad
        assert gradient[:60].any() and not gradient[60:].any()


def test_after_its_render_a_step_reads_no_value_of_the_device(monkeypatch):
    """It would wait for the prior's network before the backward pass is launched."""
    scene = make()
    out = scene.render(view(), generator=torch.Generator())
    monkeypatch.setattr(torch.Tensor, "__int__", lambda self: pytest.fail("read"))
    assert scene.figures(out) == {"gaussians": 60}
    out.rgb.square().sum().backward()
    scene.after_backward(1, 0.01)
    monkeypatch.undo()
    assert scene.figures(out) == {"gaussians": 60} and scene.views.sum() == 120


def test_those_that_the_gradient_pulls_most_are_doubled_until_there_are_enough():
    scene = make()
    assert train(scene, adam(scene), range(7)) == [60, 60, 72, 72, 86, 86, 100]
    stay, doubled = growth().choose(torch.tensor([True, False, True, True, True]), torch.tensor([1.0, 9, 3, 2, 0]), 9)
    assert stay.tolist() == [0, 2, 3, 4] and doubled.tolist() == [2]


@pytest.mark.parametrize(("steps", "changes"), [(300, range(15, 151, 15)), (10_000, range(500, 5001, 500))])
def test_the_default_grows_in_the_first_half_of_a_run_of_any_length(steps, changes):
    default = instantiate(OmegaConf.load(CONF / "scene" / "gaussians.yaml").scene.growth)
    assert [step for step in range(steps) if default.due(step, step / steps)] == [*changes]


def test_the_pull_is_a_mean_over_the_views_that_saw_a_gaussian():
    scene = make(4, 5, growth=growth(share=0.25, split=10.0))
    with torch.no_grad():
        scene.color[:4] = torch.arange(4.0)[:, None]  # names each one
        scene.pull[:4], scene.views[:4] = torch.tensor([1.5, 1.0, 0.0, 2.0]), torch.tensor([2.0, 1.0, 0.0, 4.0])
    scene.after_backward(2, 0.02)
    assert scene.color[:5, 0].tolist() == [0, 1, 2, 3, 1]
    assert not scene.pull.any() and not scene.views.any()


def test_a_step_whose_gradient_overflows_is_not_counted():
    """As the first ones with trainer.precision=16-mixed, which its scaler skips."""
    scene = make()
    for step, factor in enumerate((torch.inf, 1.0)):
        out = scene.render(view(), generator=torch.Generator())
        (out.rgb.square().sum() * factor).backward()
        scene.after_backward(2 * step + 1, 0.01)
        assert scene.pull.isfinite().all() and scene.views.sum() == 120 * step


def test_growth_may_be_given_in_steps_as_in_older_runs():
    for steps in (50, 90, 150):  # step / progress is not a whole number in floating point
        every = round(0.05 * steps)
        found = [step for step in range(1, steps) if growth(every=0.05, until=1.0).due(step, step / steps)]
        assert found == list(range(every, steps, every))
    assert [step for step in range(300) if growth(every=50, until=150).due(step, step / 300)] == [50, 100, 150]
    assert not any(growth(every=0).due(step, step / 300) for step in range(300))


def test_the_picture_hardly_changes_when_gaussians_are_copied():
    scene = make(growth=growth(share=1.0, every=1, split=10.0))
    with torch.no_grad():
        before = scene.render(view()).opacity
        scene.pull[:60], scene.views[:60] = 1.0, 1.0
        scene.after_backward(1, 0.01)
        after = scene.render(view()).opacity
    assert int(scene.count) == 100
    assert float((after - before).abs().mean()) < 0.005


@pytest.mark.parametrize("split", [1e-4, 10.0], ids=["split", "copied"])
def test_moments_follow_their_gaussians_and_those_of_new_ones_are_zero(split):
    scene = make(growth=growth(split=split), degree=1)
    optimizer = adam(scene)
    train(scene, optimizer, range(2))
    for p in scene.parameters():
        p.grad = None
    moments = optimizer.state[scene.position]["exp_avg"]
    others = optimizer.state[scene.directional]["exp_avg_sq"]
    with torch.no_grad():
        scene.color[:60] = torch.arange(60.0)[:, None]  # names each one
        scene.directional[:60] = torch.arange(540.0).view(60, 3, 3)
        others[:60] = torch.arange(540.0).view(60, 3, 3) + 1
        scene.opacity[10] = -20.0  # faint
        moments[:60] = torch.arange(60.0)[:, None]
        scene.pull[:60] = torch.arange(60.0)
    scene.after_backward(2, 0.02, optimizer)
    assert int(scene.count) == 59 + 12
    names = scene.color[:71, 0].detach().round().long()
    assert 10 not in names
    assert names[59:].tolist() == list(range(59, 47, -1))
    again = torch.isin(names, names[59:]) if split < 1 else torch.arange(71) >= 59
    assert torch.equal(moments[:71, 0], torch.where(again, 0.0, names.float()))
    assert not moments[71:].any() and not scene.position[71:].any()
    assert torch.equal(scene.directional[:71], torch.arange(540.0).view(60, 3, 3)[names])
    expected = (torch.arange(540.0).view(60, 3, 3) + 1)[names]
    assert torch.equal(others[:71], expected.masked_fill(again[:, None, None], 0.0)) and not others[71:].any()


def test_a_split_gaussian_becomes_two_smaller_ones_with_its_mean_and_variance():
    scene = make(4, 8, growth=growth(share=0.25, split=0.01))
    with torch.no_grad():
        scene.position[:4], scene.scale[:4] = 0.0, torch.tensor([0.3, 0.1, 0.05]).log()
        scene.pull[0] = 1.0
    scene.after_backward(2, 0.02)
    pair = scene.position.detach()[[0, 4]]
    torch.testing.assert_close(pair.mean(0), torch.zeros(3))
    width = scene.scale.detach()[[0, 4]].exp()
    torch.testing.assert_close(width[:, 0].square() + pair[:, 0].square(), torch.full((2,), 0.09))


def test_a_turned_gaussian_is_split_along_its_own_longest_axis_and_shrinks_in_all():
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0))).Q
    scales = torch.tensor([0.1, 0.3, 0.05])
    position, center = torch.zeros(3, 3), torch.tensor([0.2, -0.1, 0.4])
    position[[0, 2]] = center
    log_scales = scales.log().repeat(3, 1)
    split_in_two(position, log_scales, turn.repeat(3, 1, 1), (torch.tensor([0]), torch.tensor([2])))
    torch.testing.assert_close(position[[0, 2]].mean(0), center)
    assert not position[1].any() and torch.equal(log_scales[1], scales.log())  # of another
    smaller = (scales / 1.6).square()
    apart = position[0] - center
    together = turn @ torch.diag(smaller) @ turn.T + apart[:, None] * apart
    torch.testing.assert_close(turn.T @ together @ turn, torch.diag(torch.tensor([smaller[0], 0.09, smaller[2]])))
    torch.testing.assert_close(log_scales[[0, 2]].exp(), (scales / 1.6).expand(2, 3))


def test_what_is_faint_or_has_left_the_ball_is_removed_but_never_all():
    scene = make()
    with torch.no_grad():
        scene.position[3] = 2.0
        scene.opacity[5] = -9.0
    scene.growth = growth(share=0.0)
    scene.after_backward(2, 0.02)
    assert int(scene.count) == 58
    with torch.no_grad():
        scene.opacity.fill_(-9.0)
    scene.after_backward(4, 0.04)
    assert int(scene.count) == 58


def test_what_has_left_the_ball_is_not_drawn_after_the_last_change_of_the_number():
    scene, without = make(), make()
    with torch.no_grad():
        without.load_state_dict(scene.state_dict())
        without.opacity[3] = -30.0
        scene.position[3] = torch.tensor([0.0, 0.0, 1.1])  # between the ball and the camera
        found, wanted = scene.render(view()), without.render(view())
    torch.testing.assert_close(found.rgb, wanted.rgb)
    assert scene.gaussians().opacities[3] == 0


@pytest.mark.parametrize("degree", [0, 1])
def test_training_resumes_bit_for_bit_with_the_number_of_gaussians(degree):
    whole, first = make(degree=degree), make(degree=degree)
    optimizers = adam(whole), adam(first)
    train(whole, optimizers[0], range(9))
    train(first, optimizers[1], range(5))
    again = make(opacity=0.5, degree=degree)
    again.load_state_dict(first.state_dict())
    third = adam(again)
    third.load_state_dict(optimizers[1].state_dict())
    assert int(again.count) == 86
    train(again, third, range(5, 9))
    assert_same(dict(again.state_dict()), dict(whole.state_dict()))
    assert ("directional" in again.state_dict()) == (degree == 1)
    assert_same(third.state_dict(), optimizers[0].state_dict())


def test_with_its_learning_rates_fifty_steps_give_the_colour_and_outline_of_a_picture():
    scene, wanted = make(200, 200, growth=growth(every=0)), started()
    with torch.no_grad():
        goal = wanted.render(view())
    rates = OmegaConf.load(CONF / "scene" / "gaussians.yaml").optimizer.learning_rates
    groups = [{"params": group, "lr": rates[name]} for name, group in scene.parameter_groups().items() if group]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    losses = []
    for _ in range(51):
        optimizer.zero_grad()
        loss = (scene.render(view()).rgb - goal.rgb).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.025 * losses[0]  # DreamGaussian's rates: 0.05


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"count": 2}, "scene.count=5000"), ({"opacity": 1.5}, "allowed 0 to 1"), ({"ball": 2.0}, "scene.ball 2.0")],
)
def test_a_value_that_is_not_allowed_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        make(**settings)
    with pytest.raises(ValueError, match=r"scene\.growth\.every=0.05"):
        growth(every=-1)
    with pytest.raises(ValueError, match=r"until=-0.5"):
        growth(until=-0.5)
    with pytest.raises(ValueError, match=r"type scene\.growth\.split=0.03"):
        growth(split=0)


def test_a_mesh_of_which_nothing_is_seen_is_refused():
    flat = RasterMesh(np.zeros((3, 3)), np.array([[0, 1, 2]]))
    with pytest.raises(UserError, match="has no visible surface"):
        make().start_from(flat)
