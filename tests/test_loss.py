"""Regularisers on hand-made renders."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from dreamfusion.loss import Regularizer, depth_variance_loss, entropy_loss, opacity_loss, smoothness_loss, total
from dreamfusion.scene.base import Term
from dreamfusion.scene.nerf.renderer import RayRender
from dreamfusion.scene.nerf.scene import orientation_loss
from dreamfusion.types import RaySamples, RenderOutput


def rendered(opacity, normal=None, weights=(), ray=(), sample_normal=None, directions=None):
    """One image (H, W) of the given opacity, with packed samples."""
    opacity = torch.as_tensor(opacity, dtype=torch.float32)[None, None]
    rays = opacity.numel()
    ray = torch.tensor(ray, dtype=torch.long)
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), torch.bincount(ray, minlength=rays).cumsum(0)])
    count = torch.zeros(len(ray))
    return RayRender(
        rgb=opacity.expand(-1, 3, -1, -1),
        background=torch.ones(1, 3),
        opacity=opacity,
        depth=opacity,
        normal=normal,
        weights=torch.as_tensor(weights, dtype=torch.float32),
        samples=RaySamples(ray, offsets, count, count, torch.zeros(len(ray), 3)),
        sample_normal=sample_normal,
        directions=torch.tensor([[0.0, 0.0, -1.0]]).expand(rays, 3) if directions is None else directions,
    )


@pytest.fixture
def scene(make_scene, tiny_field):
    return make_scene(tiny_field())


def test_orientation_counts_weighted_squared_cosines_of_normals_that_face_away():
    """Looking along -z: a normal +z faces the camera, -z faces away, the third is at 60 degrees to the ray."""
    normals = torch.tensor([[0.0, 0, 1], [0, 0, -1], [3**0.5 / 2, 0, -0.5]])
    render = rendered([[1.0, 1.0]], weights=[0.9, 0.5, 0.4], ray=[0, 0, 1], sample_normal=normals)
    assert orientation_loss(render).item() == pytest.approx((0.5 * 1 + 0.4 * 0.25) / 2)


def test_orientation_has_no_gradient_to_the_weights_only_to_the_normals():
    normals = torch.tensor([[0.6, 0, -0.8]], requires_grad=True)
    weights = torch.tensor([0.5], requires_grad=True)
    orientation_loss(rendered([[1.0]], weights=weights, ray=[0], sample_normal=normals)).backward()
    assert weights.grad is None
    torch.testing.assert_close(normals.grad, torch.tensor([[0.0, 0.0, 0.5 * 2 * 0.8 * -1]]))


def test_opacity_is_the_mean_of_the_published_root():
    render = rendered([[0.0, 1.0], [0.5, 0.0]])
    expected = (0.1 + math.sqrt(1.01) + math.sqrt(0.26) + 0.1) / 4
    assert opacity_loss(render).item() == pytest.approx(expected)


def test_entropy_is_one_bit_at_one_half_and_near_zero_at_zero_and_one():
    assert entropy_loss(rendered([[0.5, 0.5]])).item() == pytest.approx(1.0)
    assert entropy_loss(rendered([[0.0, 1.0]])).item() == pytest.approx(0.0114, abs=1e-4)
    p = 0.25
    expected = -(p * math.log2(p) + (1 - p) * math.log2(1 - p))
    assert entropy_loss(rendered([[p]])).item() == pytest.approx(expected)


def test_entropy_pushes_opacities_apart():
    opacity = torch.tensor([[0.3, 0.7]], requires_grad=True)
    entropy_loss(rendered(opacity)).backward()
    assert opacity.grad[0, 0] > 0 > opacity.grad[0, 1]


def test_smoothness_is_zero_on_a_plane_and_counts_differences_between_solid_pixels_only():
    front, side = torch.tensor([0.0, 0, 1]), torch.tensor([1.0, 0, 0])
    plane = front.view(1, 3, 1, 1).expand(1, 3, 2, 3)
    assert smoothness_loss(rendered(torch.ones(2, 3), normal=plane)) == 0
    edge = torch.stack([front, front, side], dim=-1).view(1, 3, 1, 3).expand(1, 3, 2, 3)
    # Two steps of squared length 2 (one in each row) over six solid pixels.
    assert smoothness_loss(rendered(torch.ones(2, 3), normal=edge)).item() == pytest.approx(4 / 6)
    half = torch.tensor([[1.0, 1.0, 0.2]] * 2)
    assert smoothness_loss(rendered(half, normal=edge)) == 0


@pytest.mark.parametrize("turned", [False, True], ids=["columns", "rows"])
def test_smoothness_counts_an_edge_in_either_direction_if_both_of_its_pixels_are_solid(turned):
    """Normals at 0, 90 and 180 degrees: steps of squared length 2; the pixels beside one faint pixel make none."""

    def loss(opacity):
        angle = torch.tensor([[0.0, math.pi / 2, math.pi]]).expand(2, 3)
        normal, opacity = torch.stack([angle.cos(), angle.sin(), torch.zeros(2, 3)])[None], torch.tensor(opacity)
        return smoothness_loss(rendered(opacity.T if turned else opacity, normal=normal.mT if turned else normal))

    assert loss([[1.0, 0.51, 1.0]] * 2).item() == pytest.approx(4 * 2 / 6)
    assert loss([[0.49, 1.0, 1.0], [1.0, 1.0, 0.49]]).item() == pytest.approx(2 * 2 / 4)
    assert loss([[1.0, 0.49, 1.0]] * 2).item() == 0


def along_rays(weights, middles, ray, rays):
    """A row of rays with these samples, each 0.1 long; opacity and depth are theirs."""
    ray, middles = torch.tensor(ray), torch.tensor(middles)
    opacity = torch.zeros(rays).index_add(0, ray, weights)
    depth = torch.zeros(rays).index_add(0, ray, weights * middles)
    render = rendered(opacity[None], weights=weights, ray=ray.tolist())
    samples = replace(render.samples, t_start=middles - 0.05, t_end=middles + 0.05)
    return replace(render, opacity=opacity[None, None, None], depth=depth[None, None, None], samples=samples)


def test_depth_variance_is_that_of_the_samples_of_solid_rays():
    weights, middles, ray = torch.tensor([0.6, 0.3, 0.8, 0.2, 0.2]), [1.0, 2.0, 3.0, 0.0, 9.0], [0, 0, 1, 2, 2]
    mean = (0.6 * 1 + 0.3 * 2) / 0.9
    spread = (0.6 * (1 - mean) ** 2 + 0.3 * (2 - mean) ** 2) / 0.9
    found = depth_variance_loss(along_rays(weights, middles, ray, 3))  # the second has one surface, the third is faint
    assert found.item() == pytest.approx(spread / 2, rel=1e-5)
    alone = depth_variance_loss(along_rays(torch.tensor([0.6, 0.3]), [1.0, 2.0], [0, 0], 1))
    assert alone.item() == pytest.approx(spread, rel=1e-5)


def test_depth_variance_has_the_gradient_of_finite_differences():
    middles, ray = [1.0, 1.5, 2.5, 0.7], [0, 0, 0, 1]
    weights = torch.tensor([0.3, 0.2, 0.25, 0.9], requires_grad=True)
    (slope,) = torch.autograd.grad(depth_variance_loss(along_rays(weights, middles, ray, 2)), weights)
    for index in range(4):
        step = torch.zeros(4).index_fill(0, torch.tensor(index), 1e-2)
        ahead, behind = (depth_variance_loss(along_rays(weights.detach() + s * step, middles, ray, 2)) for s in (1, -1))
        assert slope[index].item() == pytest.approx(float(ahead - behind) / 2e-2, rel=1e-2, abs=1e-4)


def test_depth_has_no_variance_in_a_render_that_is_not_sampled_along_rays():
    whole = rendered([[1.0, 0.5]])
    picture = RenderOutput(whole.rgb, whole.background, whole.opacity, whole.depth, None)
    assert depth_variance_loss(picture).item() == 0


def test_an_empty_image_has_finite_losses():
    render = rendered(torch.zeros(2, 2), normal=torch.zeros(1, 3, 2, 2), sample_normal=torch.zeros(0, 3))
    for loss in (orientation_loss, opacity_loss, entropy_loss, smoothness_loss, depth_variance_loss):
        assert loss(render).isfinite()


def test_terms_are_weighted_by_their_schedules_and_omitted_at_zero(scene):
    render = rendered([[0.5]])
    regularizer = Regularizer(opacity=[[0, 0.0], [1, 2.0]], entropy=3.0)
    assert set(regularizer(scene, render, 0.0)) == {"entropy"}
    terms = regularizer(scene, render, 0.5)
    assert terms["opacity"].item() == pytest.approx(1.0 * math.sqrt(0.26))
    assert terms["entropy"].item() == pytest.approx(3.0)
    assert total(terms, torch.tensor(0.0)).item() == pytest.approx(3 + math.sqrt(0.26))
    assert total({}, torch.tensor(5.0)) == 0


def test_a_term_of_another_scene_may_have_a_weight_of_zero(scene):
    assert set(Regularizer(curvature=0.0, opacity=0.0, entropy=1.0).terms(scene)) == {"opacity", "entropy"}
    with pytest.raises(ValueError, match="has no term 'curvature'"):
        Regularizer(curvature=[[0, 0.0], [1, 0.1]]).terms(scene)


def test_normals_are_needed_while_a_term_that_reads_them_has_weight(scene):
    late = Regularizer(orientation=[[0.5, 0.0], [1.0, 0.01]])
    assert [late.needs_normal(scene, p) for p in (0.0, 0.5, 0.6)] == [False, False, True]
    assert Regularizer(smoothness=1.0).needs_normal(scene, 0.0)
    assert Regularizer(smoothness=1.0, opacity=1.0, orientation=0.0).needs_normal(scene, 0.0)
    assert not Regularizer(opacity=1.0, entropy=1.0).needs_normal(scene, 0.0)


@pytest.mark.parametrize("loss", [orientation_loss, smoothness_loss])
def test_terms_that_read_normals_raise_without_normals(loss):
    with pytest.raises(ValueError, match="with_normal=True"):
        loss(rendered([[1.0]]))


def test_a_negative_weight_is_named():
    with pytest.raises(ValueError, match=r"system.regularizer.opacity is -1; a weight"):
        Regularizer(opacity=-1)


def test_terms_of_the_settings_are_weighted_like_the_others(scene):
    seen = Term(lambda render: render.rgb.mean(), needs_normal=True)
    regularizer = Regularizer(
        {"bright": lambda render: render.rgb.max(), "seen": seen}, bright=[[0, 0], [1, 4]], seen=2
    )
    assert regularizer.needs_normal(scene, 0.0)
    values = regularizer(scene, rendered([[0.5, 0.25]]), 0.5)
    assert {name: value.item() for name, value in values.items()} == {"bright": 2 * 0.5, "seen": 2 * 0.375}
    with pytest.raises(ValueError, match=r"no term .sharp. for this scene; it has opacity, .*, bright, orientation"):
        Regularizer({"bright": seen}, bright=0, sharp=1).terms(scene)


@pytest.mark.parametrize("name", ["opacity", "orientation"])
def test_a_term_of_the_settings_with_the_name_of_another_is_refused(scene, name):
    with pytest.raises(ValueError, match=f"terms.{name} has the name of (another|a) term"):
        Regularizer({name: opacity_loss}, **{name: 1.0}).terms(scene)


def test_a_term_without_a_weight_is_named():
    with pytest.raises(ValueError, match=r"no weight for 'bright'; type \+system.regularizer.bright=1.0"):
        Regularizer({"bright": opacity_loss})


def test_orientation_of_a_real_render_is_zero_for_a_ball_seen_from_outside(ball, cameras_at):
    """An opaque ball hides its far side, whose normals face away."""
    from dreamfusion.scene.background.solid import ConstantBackground
    from dreamfusion.scene.nerf.stratified import StratifiedRenderer

    renderer, background = StratifiedRenderer(1.0, 400), ConstantBackground([0, 0, 0])
    opaque = renderer(cameras_at([0.0]), ball(500.0), background, with_normal=True)
    faint = renderer(cameras_at([0.0]), ball(0.5), background, with_normal=True)
    assert orientation_loss(opaque) < 1e-3 < orientation_loss(faint)
    torch.testing.assert_close(opaque.directions, normalize(opaque.directions, dim=-1))
