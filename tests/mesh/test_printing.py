"""Facts for printing, of shapes whose facts are known."""

import numpy as np
import pytest
import trimesh

from dreamfusion.mesh.printing import print_facts, thinnest_wall
from dreamfusion.types import Mesh


def as_mesh(*shapes):
    shape = trimesh.util.concatenate(shapes)
    return Mesh(np.asarray(shape.vertices, np.float32), np.asarray(shape.faces, np.int64))


def hollow(side, wall):
    inner = trimesh.creation.box((side - 2 * wall,) * 3)
    inner.invert()
    return as_mesh(trimesh.creation.box((side,) * 3), inner)


def cone(degrees):
    """A cone on its tip whose side points this far below the horizontal."""
    shape = trimesh.creation.cone(1.0, np.tan(np.radians(90 - degrees)), sections=64)
    shape.apply_transform(trimesh.transformations.rotation_matrix(np.pi / 2, (1, 0, 0)))  # the tip points down
    return as_mesh(shape)


@pytest.mark.parametrize("wall", [0.2, 2.0, 8.0])
def test_the_wall_of_a_hollow_box_is_measured_to_a_thousandth(wall):
    assert thinnest_wall(hollow(40.0, wall)) == pytest.approx(wall, rel=1e-3)


def test_a_rod_is_as_thin_as_it_is_thick_and_a_slender_part_of_a_body_counts():
    rod = trimesh.creation.cylinder(0.05, 1.5, sections=32)
    assert thinnest_wall(as_mesh(rod)) == pytest.approx(0.1, rel=0.07)  # a facet's chords are shorter than 0.1
    body = trimesh.creation.icosphere(subdivisions=3, radius=0.5).apply_translation((2, 0, 0))
    assert thinnest_wall(as_mesh(rod, body)) == pytest.approx(0.1, rel=0.07)


def test_the_edges_of_a_solid_are_no_walls():
    assert thinnest_wall(as_mesh(trimesh.creation.box((1.0, 0.6, 0.8)))) == pytest.approx(0.6, rel=1e-3)
    corner = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], np.float32)
    assert thinnest_wall(Mesh(corner, np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]]))) is None


def test_walls_follow_the_scale_and_not_the_frame():
    thin = as_mesh(trimesh.creation.box((1.0, 0.02, 0.8)))
    turn = trimesh.transformations.random_rotation_matrix(np.array([0.2, 0.5, 0.7]))[:3, :3]
    turned = Mesh((1000 * thin.vertices @ turn.T).astype(np.float32), thin.faces)
    assert thinnest_wall(turned) == pytest.approx(20.0, rel=1e-3)


def test_an_overhang_is_more_than_45_degrees_below_the_horizontal():
    for degrees, share in ((40, 0), (50, 1)):
        side = 1 / np.cos(np.radians(90 - degrees))  # of the area of the disc
        assert print_facts(cone(degrees), True).overhang == pytest.approx(share * side / (1 + side), abs=1e-3)


def test_what_stands_on_the_plate_is_no_overhang():
    """A table: its feet stand, the lower side of its top hangs but for where the legs are."""
    legs = [trimesh.creation.box((0.1, 0.8, 0.1)).apply_translation((x, 0.4, 0)) for x in (-0.4, 0.4)]
    top = trimesh.creation.box((1.0, 0.2, 0.4)).apply_translation((0, 0.9, 0))
    assert print_facts(as_mesh(*legs[:1]), True).overhang == 0.0
    area = 2 * 2 * (0.08 + 0.08 + 0.01) + 2 * (0.4 + 0.2 + 0.08)
    assert print_facts(as_mesh(*legs, top), True).overhang == pytest.approx(0.4 / area, rel=1e-5)


def test_the_volume_is_that_of_the_solid_and_an_open_surface_has_none():
    facts = print_facts(hollow(4.0, 1.0), True)
    assert facts.volume == pytest.approx(4**3 - 2**3)
    assert print_facts(hollow(4.0, 1.0), False).volume is None
