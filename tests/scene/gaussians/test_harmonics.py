"""Colours that change with the direction, against their closed form; scenes of degree 0 and 1."""

from dataclasses import replace

import pytest
import torch
from options import option

from dreamfusion.error import UserError
from dreamfusion.export.splats import splat_bytes
from dreamfusion.ops.splat import splat
from dreamfusion.ops.splat.projection import project_gaussians
from dreamfusion.scene.gaussians.growth import Growth
from dreamfusion.scene.gaussians.harmonics import bounded, colors_along
from dreamfusion.scene.gaussians.scene import GaussianScene
from dreamfusion.types import Gaussians

ORBIT = option("camera/orbit")
STATE = {"position", "color", "opacity", "scale", "rotation", "count", "pull", "views"}  # of degree 0


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def cloud(colors, coefficients):
    """Gaussians with colours (N, 3) and unbounded coefficients (N, 3, 3)."""
    n = len(colors)
    form = (torch.zeros(n, 3), torch.ones(n, 3), torch.ones(n, 4), torch.ones(n))
    return Gaussians(*form, colors, bounded(coefficients, colors))


def scene_of(degree, count=40, filled=True):
    torch.manual_seed(0)
    growth = Growth(every=0, until=0, share=0.2, split=0.05, faint=0.01)
    settings = {"count": count, "most": 50, "degree": degree, "ball": 0.5, "opacity": 0.6, "growth": growth}
    scene = GaussianScene(option("background/constant"), 1.0, **settings)
    with torch.no_grad():
        scene.color.copy_(2 * drawn(50, 3))
        if degree and filled:
            scene.directional.copy_(2 * drawn(50, 3, 3, seed=1))
    return scene


def view(size=24):
    return ORBIT.view(torch.tensor([20.0, 200.0]), 15.0, size, size)


@pytest.mark.parametrize("axis", [0, 1, 2], ids="xyz")
def test_along_an_axis_a_colour_is_its_mean_plus_and_minus_the_bounded_coefficient_of_the_axis(axis):
    colors = torch.tensor([[0.5, 0.2, 0.9]])
    coefficients = torch.tensor([[[2.0, 0.0, 0.0], [1.0, 2.0, -2.0], [0.5, -1.0, 3.0]]])
    length = torch.tensor([2.0, 3.0, 10.25**0.5])  # of the three channels' coefficients
    room = torch.tensor([0.5, 0.2, 0.1])  # min(c, 1 - c)
    expected = room * coefficients[0, :, axis] / (1 + length**2).sqrt()
    offsets = torch.zeros(2, 1, 3)
    offsets[:, 0, axis] = torch.tensor([3.0, -0.5])  # only the direction counts
    ahead, behind = colors_along(cloud(colors, coefficients), offsets)
    torch.testing.assert_close(ahead, colors + expected)
    torch.testing.assert_close(behind, colors - expected)


def test_colours_stay_in_zero_to_one_reach_both_ends_and_have_their_mean_over_opposite_directions():
    colors, coefficients = drawn(500, 3).sigmoid(), 10 ** drawn(500, 1, 1, seed=2).clamp(-4, 3) * drawn(500, 3, 3)
    colors[0], coefficients[0] = 0.5, torch.tensor([1e4, 0.0, 0.0])
    offsets = drawn(40, 500, 3, seed=1)
    offsets[0, 0] = torch.tensor([1.0, 0.0, 0.0])
    own = cloud(colors, coefficients)
    there, back = colors_along(own, offsets), colors_along(own, -offsets)
    assert float(there.min()) >= -1e-6 and float(there.max()) <= 1 + 1e-6
    torch.testing.assert_close((there + back) / 2, colors.expand(40, -1, -1))
    torch.testing.assert_close(torch.stack([there[0, 0], back[0, 0]]), torch.tensor([[1.0], [0.0]]).expand(2, 3))


def test_gradients_are_those_of_finite_differences():
    def colors(logits, coefficients, offsets):
        return colors_along(cloud(logits.sigmoid(), coefficients), offsets)

    inputs = [drawn(5, 3), drawn(5, 3, 3, seed=1), drawn(2, 5, 3, seed=2)]
    assert torch.autograd.gradcheck(colors, [values.double().requires_grad_() for values in inputs])


@pytest.mark.parametrize("logit", [0.0, 80.0, -80.0])
@pytest.mark.parametrize("size", [0.0, 1e15])
def test_gradients_are_finite_for_the_greyest_and_purest_colours_and_at_the_camera(logit, size):
    logits = torch.full((1, 3), logit, requires_grad=True)
    coefficients = torch.full((1, 3, 3), size, requires_grad=True)
    offsets = torch.tensor([[[0.0, 0.0, 0.0]], [[1.0, -2.0, 3.0]]], requires_grad=True)
    colors_along(cloud(logits.sigmoid(), coefficients), offsets).square().sum().backward()
    assert all(values.grad.isfinite().all() for values in (logits, coefficients, offsets))


def test_a_scene_of_degree_0_has_the_state_and_the_bits_of_one_colour_for_all_directions():
    scene, cameras = scene_of(0), view()
    assert {name for name in scene.state_dict() if not name.startswith("background.")} == STATE
    own = scene.gaussians()
    assert own.directional is None
    away = (own.means - cameras.camera_to_world[:, None, :, 3]).norm(dim=-1, keepdim=True)
    features = torch.cat([scene.color[:40].sigmoid().expand(2, -1, -1), away], dim=-1)
    screen = project_gaussians(cameras, own.means, own.scales, own.rotations)
    sums, opacity = splat(screen, own.opacities, features, 24, 24)
    behind = (1 - opacity[..., None]) * scene.background.color
    assert torch.equal(scene.render(cameras).rgb, (sums[..., :3] + behind).permute(0, 3, 1, 2))


@torch.no_grad()
def test_a_new_scene_of_degree_1_looks_as_one_of_degree_0_bit_for_bit():
    assert torch.equal(scene_of(1, filled=False).render(view()).rgb, scene_of(0).render(view()).rgb)
    assert float((scene_of(1).render(view()).rgb - scene_of(0).render(view()).rgb).abs().max()) > 0.1


def test_the_lattice_of_the_mesh_and_the_splat_file_have_the_mean_colours():
    one, other = scene_of(1).requires_grad_(False), scene_of(0).requires_grad_(False)
    assert torch.equal(one.volume().field.grid, other.volume().field.grid)
    assert splat_bytes(one.gaussians()) == splat_bytes(other.gaussians())


def test_gaussians_that_are_red_from_the_front_and_blue_from_behind_are_learned_with_degree_1_only():
    cameras = ORBIT.view(torch.tensor([0.0, 180.0]), 0.0, 16, 16)
    goal = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])[:, :, None, None]
    losses = []
    for degree in (0, 1):
        scene = scene_of(degree, filled=False)
        optimizer = torch.optim.Adam([p for name, p in scene.named_parameters() if name != "opacity"], lr=0.1)
        for _ in range(60):
            optimizer.zero_grad()
            render = scene.render(cameras)
            loss = (render.opacity.detach() * (render.rgb - goal).square()).mean()
            loss.backward()
            optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[1] < 0.2 * losses[0]


@pytest.mark.parametrize("most", [50, 100, 200])
def test_a_start_takes_gaussians_with_room_for_more_or_fewer_and_no_statistics(most):
    def made(most):
        settings = {"radius": 1.0, "degree": 0, "ball": 0.5, "opacity": 0.3, "growth": Growth(0, 0.5, 0.2, 0.05, 0.01)}
        return GaussianScene(option("background/constant"), count=40, most=most, **settings)

    before, scene = made(100), made(most)
    before.pull.fill_(1.0)
    before.views.fill_(9.0)
    scene.load_state_dict(scene.adopted(before.state_dict()))
    assert torch.equal(scene.render(view()).rgb, before.render(view()).rgb)
    assert len(scene.position) == most and not scene.pull.any() and not scene.views.any()
    before.count.fill_(60)
    if most < 60:
        with pytest.raises(UserError, match=r"has 60 Gaussians, and scene\.most is 50; raise it"):
            scene.adopted(before.state_dict())


def test_a_start_takes_gaussians_of_the_other_degree_as_they_are_and_with_their_mean_colours():
    plain, changing = scene_of(0), scene_of(1)
    changing.load_state_dict(changing.adopted(plain.state_dict()))
    assert not changing.directional.any()
    assert torch.equal(changing.render(view()).rgb, plain.render(view()).rgb)
    changing, again = scene_of(1), scene_of(1, filled=False)
    again.load_state_dict(again.adopted(changing.state_dict()))
    assert torch.equal(again.directional, changing.directional)
    with torch.no_grad():
        changing.color += 1.0
    plain.load_state_dict(plain.adopted(changing.state_dict()))
    own = changing.gaussians()
    assert torch.equal(plain.gaussians().colors, own.colors)


def test_vectors_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"Gaussians\.directional has shape \(4, 3\), expected \(4, 3, 3\)"):
        replace(cloud(drawn(4, 3).sigmoid(), drawn(4, 3, 3)), directional=torch.zeros(4, 3))


@pytest.mark.parametrize("degree", [2, -1, 0.5])
def test_a_degree_that_does_not_exist_is_refused_in_one_sentence(degree):
    with pytest.raises(ValueError, match=rf"scene.degree is {degree}, allowed 0 .* and 1 .*; type scene.degree=1") as e:
        scene_of(degree)
    assert "\n" not in str(e.value)
