"""Cavities that nobody can see are filled; what can be seen stays as it is."""

import numpy as np
import pytest
from options import export_settings

from dreamfusion.mesh.hidden import directions, fill_hidden, hidden_points
from dreamfusion.mesh.isosurface import extract_mesh

SIDE = 64
AXIS = np.arange(SIDE) - (SIDE - 1) / 2
X, Y, Z = np.meshgrid(AXIS, AXIS, AXIS, indexing="ij")
DISTANCE = np.sqrt(X**2 + Y**2 + Z**2)
SHELL = (DISTANCE < 24) & (DISTANCE > 19)
INSIDE = DISTANCE <= 19
PINHOLE = SHELL & ~((np.hypot(X, Y) < 2) & (Z > 0))
TUBE = (np.hypot(X, Y) < 16) & (np.abs(Z) < 24)


def test_the_directions_are_all_different():
    units = {tuple(np.round(np.array(one) / np.linalg.norm(one), 6)) for one in directions()}
    assert len(units) == len(directions()) == 98


@pytest.mark.parametrize("solid", [SHELL, PINHOLE], ids=["closed", "with a pinhole"])
def test_the_inside_of_a_shell_is_hidden_and_its_outside_is_not(solid):
    hidden = hidden_points(solid)
    assert hidden[INSIDE].mean() > 0.98
    assert not hidden[~INSIDE].any()


@pytest.mark.parametrize(
    "solid",
    [
        TUBE,
        SHELL & (Z < 6),  # a bowl
        TUBE & ~((np.hypot(X, Y) < 12) & (Z > 2)),  # a mug, 22 deep and 24 wide
        TUBE & (np.hypot(X, Y) > 12),  # a pipe
        (np.abs(X) < 24) & (np.abs(Y) < 24) & (np.abs(Z) < 24) & ((np.abs(X) < 2) | (np.abs(X) > 6)),  # planks
    ],
    ids=["solid", "bowl", "mug", "pipe", "planks"],
)
def test_what_is_open_stays_open(solid):
    assert not hidden_points(solid).any()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_all_axes_are_alike(axis):
    turned = np.moveaxis(PINHOLE, 2, axis)
    np.testing.assert_array_equal(hidden_points(turned), np.moveaxis(hidden_points(PINHOLE), 2, axis))


def test_a_fine_grid_is_filled_by_its_coarse_one_and_its_border_stays_empty():
    fine = PINHOLE.repeat(4, 0).repeat(4, 1).repeat(4, 2).astype(np.float32)
    fill_hidden(fine)
    assert fine[128, 128, 128] == 1.0
    assert fine[INSIDE.repeat(4, 0).repeat(4, 1).repeat(4, 2)].mean() > 0.97
    assert not fine[[0, -1]].any()
    empty = np.zeros((16, 16, 16), np.float32)
    fill_hidden(empty)
    assert not empty.any()


@pytest.mark.parametrize(("fill", "volume"), [(True, 0.7**3), (False, 0.7**3 - 0.5**3)])
def test_a_mesh_has_no_walls_inside(fill, volume):
    """Before, one pinhole joined the inner wall of a hollow object to its surface, and the mesh kept both."""

    def density(positions):
        distance, across = positions.norm(dim=1), positions[:, :2].norm(dim=1)
        return (10.0 * ((distance < 0.7) & (distance > 0.5) & ((across > 0.05) | (positions[:, 2] < 0)))).float()

    settings = export_settings(resolution=64, blur=0.0, smoothing=0, faces=0, fill_hidden=fill)
    mesh = extract_mesh(density, 1.0, 5.0, settings)
    a, b, c = (mesh.vertices[mesh.faces[:, i]].astype(np.float64) for i in range(3))
    assert np.einsum("fi,fi->f", a, np.cross(b, c)).sum() / 6 == pytest.approx(4 / 3 * np.pi * volume, rel=0.1)
