"""A field on a lattice: trilinear interpolation is exact for what is linear in x, y and z."""

import pytest
import torch
from torch.nn.functional import normalize

from dreamfusion.scene.nerf.grid import GridField

RADIUS = 2.0
SLOPE = torch.tensor([1.0, -2.0, 0.5])  # per scene unit, different along each axis


def lattice(radius=RADIUS, side=5):
    axis = torch.linspace(-radius, radius, side)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)


def linear(radius=RADIUS, side=5):
    """Density 9 + SLOPE . x, red rising with x, green with y, blue with z."""
    places = lattice(radius, side)
    return GridField(torch.cat([9 + (places @ SLOPE)[..., None], places / (2 * radius) + 0.5], dim=-1), radius)


@pytest.fixture
def positions(seeded):
    inside = torch.rand(200, 3, generator=seeded()) * 2 - 1
    return normalize(inside, dim=-1) * 0.95 * RADIUS * torch.rand(200, 1, generator=seeded(1))


def test_density_and_albedo_are_interpolated_along_each_axis(positions):
    field = linear()
    out = field(positions)
    torch.testing.assert_close(out.density, 9 + positions @ SLOPE)
    torch.testing.assert_close(field.density(positions), 9 + positions @ SLOPE)
    assert out.normal is None
    even = GridField(torch.cat([torch.full((5, 5, 5, 1), 3.0), lattice() / (2 * RADIUS) + 0.5], dim=-1), RADIUS)
    torch.testing.assert_close(even(positions).albedo, positions / (2 * RADIUS) + 0.5)


def test_an_empty_neighbour_does_not_darken_a_colour():
    """Colours are interpolated by their density: those of empty cells are black, and mean nothing."""
    grid = torch.zeros(5, 5, 5, 4)
    grid[:3] = torch.tensor([2.0, 1.0, 0.5, 0.25])  # up to x = 0
    field = GridField(grid, RADIUS)
    edge = torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.1, 0.0], [0.9, 0.0, 0.3]])  # the next lattice point is at x = 1
    torch.testing.assert_close(field(edge).albedo, torch.tensor([[1.0, 0.5, 0.25]]).expand(3, 3))
    torch.testing.assert_close(field(edge).density, torch.tensor([2.0, 1.0, 0.2]))


def test_the_normal_is_minus_the_direction_of_the_gradient_with_and_without_tracking(positions):
    expected = -normalize(SLOPE, dim=0).expand(200, 3)
    torch.testing.assert_close(linear()(positions, with_normal=True).normal, expected, atol=1e-4, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(linear()(positions, with_normal=True).normal, expected, atol=1e-4, rtol=0)


def test_outside_of_the_ball_it_is_empty():
    far = torch.tensor([[1.99, 0.0, 0.0], [0.0, 2.01, 0.0], [1.9, 1.9, 1.9]])
    for density in (linear().density(far), linear()(far).density):
        assert density[0].item() == pytest.approx(10.99) and density[1:].tolist() == [0, 0]


def test_the_lattice_is_not_saved():
    assert not linear().state_dict()
