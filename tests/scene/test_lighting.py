"""Frequencies of the shadings compared with the published ones."""

from collections import Counter

import pytest
import torch

from dreamfusion.scene.lighting import Lighting
from dreamfusion.scene.shading import ALBEDO, LAMBERTIAN, TEXTURELESS

PAPER = Lighting(albedo_until=1 / 15, lit=0.75, textureless=0.5, ambient=0.1)
DRAWS = 4000


def draws(lighting, progress):
    generator = torch.Generator().manual_seed(0)
    return Counter(lighting.draw(progress, generator) for _ in range(DRAWS))


def test_the_first_thousand_of_fifteen_thousand_steps_are_albedo_alone():
    assert draws(PAPER, 0.0) == {ALBEDO: DRAWS}
    assert draws(PAPER, 999 / 15000) == {ALBEDO: DRAWS}


@pytest.mark.parametrize("progress", [1000 / 15000, 0.5, 1.0])
def test_later_a_quarter_is_albedo_and_the_rest_half_textureless_half_shaded(progress):
    counted = draws(PAPER, progress)
    assert set(counted) == {ALBEDO, LAMBERTIAN, TEXTURELESS}
    for shading, share in ((ALBEDO, 0.25), (LAMBERTIAN, 0.375), (TEXTURELESS, 0.375)):
        assert counted[shading] / DRAWS == pytest.approx(share, abs=0.03)


def test_ambient_and_diffuse_add_up_to_one():
    assert all(shading.ambient + shading.diffuse == pytest.approx(1) for shading in draws(PAPER, 0.5))


def test_every_step_draws_equally_many_random_numbers():
    """Otherwise the noise of a step would depend on the shading."""
    ends = set()
    for progress in (0.0, 1.0):
        generator = torch.Generator().manual_seed(7)
        PAPER.draw(progress, generator)
        ends.add(torch.rand(1, generator=generator).item())
    assert len(ends) == 1


@pytest.mark.parametrize("name", ["albedo_until", "lit", "textureless", "ambient"])
def test_a_fraction_outside_zero_to_one_is_named(name):
    settings = {"albedo_until": 0.1, "lit": 0.5, "textureless": 0.5, "ambient": 0.1} | {name: 1.2}
    with pytest.raises(ValueError, match=f"system.lighting.{name} is 1.2"):
        Lighting(**settings)
