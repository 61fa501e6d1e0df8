"""Eq. 7 of Poole et al. 2022 at points with known results."""

import pytest
import torch

from dreamfusion.scene.shading import ALBEDO, LAMBERTIAN, TEXTURELESS, Shading
from dreamfusion.types import FieldOutput

ALBEDOS = torch.tensor([[0.8, 0.4, 0.2]] * 4)
# Facing the light, at 60 degrees to it, facing away, no normal at all.
NORMALS = torch.tensor([[0.0, 0.0, 1.0], [3**0.5 / 2, 0.0, 0.5], [0.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
POSITIONS = torch.tensor([[1.0, 2.0, 3.0]]).expand(4, 3)
LIGHT = torch.tensor([[1.0, 2.0, 8.0]]).expand(4, 3)
FIELD = FieldOutput(torch.ones(4), ALBEDOS, NORMALS)


def test_albedo_shading_is_the_albedo_and_needs_no_normal():
    field = FieldOutput(torch.ones(4), ALBEDOS, None)
    assert not ALBEDO.needs_normal
    torch.testing.assert_close(ALBEDO(field, POSITIONS, LIGHT), ALBEDOS)


def test_ambient_light_alone_scales_the_albedo_and_needs_no_normal():
    field, dim = FieldOutput(torch.ones(4), ALBEDOS, None), Shading(ambient=0.5)
    assert not dim.needs_normal
    torch.testing.assert_close(dim(field, POSITIONS, None), torch.tensor([[0.4, 0.2, 0.1]] * 4))
    white = Shading(ambient=0.5, textureless=True)
    torch.testing.assert_close(white(field, POSITIONS, None), torch.full((4, 3), 0.5))


def test_lambertian_shading_is_albedo_times_diffuse_cosine_plus_ambient():
    factor = torch.tensor([0.9 * 1 + 0.1, 0.9 * 0.5 + 0.1, 0.1, 0.1])[:, None]
    torch.testing.assert_close(LAMBERTIAN(FIELD, POSITIONS, LIGHT), ALBEDOS * factor)


def test_textureless_shading_is_lambertian_with_white_albedo():
    factor = torch.tensor([1.0, 0.55, 0.1, 0.1])[:, None]
    torch.testing.assert_close(TEXTURELESS(FIELD, POSITIONS, LIGHT), factor.expand(4, 3))


def test_white_albedo_leaves_the_field_a_gradient_of_zero():
    """A distributed run needs a gradient of all parameters."""
    albedo = ALBEDOS.clone().requires_grad_()
    TEXTURELESS(FieldOutput(torch.ones(4), albedo, NORMALS), POSITIONS, LIGHT).sum().backward()
    assert albedo.grad is not None and not albedo.grad.any()


def test_the_distance_of_the_light_does_not_matter():
    nearer = torch.tensor([[1.0, 2.0, 3.5]]).expand(4, 3)
    torch.testing.assert_close(LAMBERTIAN(FIELD, POSITIONS, LIGHT), LAMBERTIAN(FIELD, POSITIONS, nearer))


def test_a_light_at_the_shaded_point_gives_a_finite_colour():
    assert LAMBERTIAN(FIELD, POSITIONS, POSITIONS).isfinite().all()


def test_diffuse_light_without_normals_is_refused():
    with pytest.raises(ValueError, match="needs normals"):
        Shading(0.5, 0.5)(FieldOutput(torch.ones(4), ALBEDOS, None), POSITIONS, LIGHT)
