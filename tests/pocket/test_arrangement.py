"""Objects of one prompt stand where it says, on one floor, and together in the unit sphere."""

import random

import pytest
import torch

from dreamfusion.pocket.model.arrangement import MOST, SIDES, SUNK, arrange
from dreamfusion.pocket.model.rays import HALF_EXTENT

N = 32


def solid(*boxes):
    """A volume (N, N, N, 2) that is solid inside boxes of (lowest, highest) corners, scene units."""
    steps = ((torch.arange(N) + 0.5) * (2 / N) - 1) * HALF_EXTENT
    z, y, x = torch.meshgrid(steps, steps, steps, indexing="ij")
    place, inside = torch.stack([x, y, z], dim=-1), torch.zeros(N, N, N, dtype=torch.bool)
    for low, high in boxes:
        inside |= ((place >= torch.tensor(low)) & (place <= torch.tensor(high))).all(dim=-1)
    return torch.stack([torch.where(inside, 5.0, -9.0), torch.zeros(N, N, N)], dim=-1)


CUBE = solid(((-0.5, -0.5, -0.5), (0.5, 0.5, 0.5)))
LEGS = [((x, -0.5, z), (x + 0.1, 0.3, z + 0.1)) for x in (-0.6, 0.5) for z in (-0.6, 0.5)]
TABLE = solid(((-0.6, 0.3, -0.6), (0.6, 0.4, 0.6)), *LEGS)
CHAIR = solid(((-0.4, -0.1, -0.4), (0.4, 0.0, 0.4)), ((-0.4, 0.0, -0.4), (0.4, 0.9, -0.3)))  # the back is at -z


def boxes(volumes, lengths, relations):
    """Lowest and highest corner of each object, in units of the voxels' own rounding; and the placement."""
    placed = arrange(torch.stack(volumes), lengths, relations)
    found = []
    for volume, place in zip(volumes, placed, strict=True):
        index = (volume[..., 0] > 0).nonzero()[:, [2, 1, 0]]
        points = (((index + 0.5) * (2 / N) - 1) * HALF_EXTENT) * place[3] + place[:3]
        found.append((points.amin(0), points.amax(0)))
    return found, placed


def test_one_object_fills_the_unit_sphere():
    ((low, high),), placed = boxes([CUBE], [3.0], [])
    torch.testing.assert_close(low, -high)
    torch.testing.assert_close(high.norm(), torch.tensor(1.0))
    assert placed.shape == (1, 4)


@pytest.mark.parametrize(
    ("relation", "axis", "sign"),
    [("and", 0, 1), ("with", 0, 1), ("left of", 0, 1), ("right of", 0, -1), ("in front of", 2, -1), ("behind", 2, 1)],
)
def test_objects_beside_each_other_do_not_touch_and_share_the_floor(relation, axis, sign):
    """ "a left of b": b is on the right, as seen from the front (+z)."""
    (one, other), _ = boxes([CUBE, TABLE], [1.0, 0.5], [relation])
    lower, upper = (one, other) if sign > 0 else (other, one)
    assert upper[0][axis] > lower[1][axis]
    torch.testing.assert_close(one[0][1], other[0][1])
    sides = [float((high - low).max()) for low, high in (one, other)]
    assert sides[1] == pytest.approx(0.5 * sides[0], rel=1e-3)


def test_what_is_on_something_stands_on_its_top_and_is_not_larger():
    (cube, table), _ = boxes([CUBE, TABLE], [3.0, 1.0], ["on"])
    assert float(cube[0][1] - table[1][1]) == pytest.approx(0, abs=0.08)
    sides = [float((high - low).max()) for low, high in (cube, table)]
    assert sides[0] == pytest.approx(MOST["on"] * sides[1], rel=1e-3)
    assert abs(float((cube[0] + cube[1])[0] - (table[0] + table[1])[0])) < 0.1


def test_what_is_on_a_chair_stands_on_the_seat_not_on_the_back():
    (cube, chair), _ = boxes([CUBE, CHAIR], [0.4, 1.0], ["on"])
    assert cube[0][1] < (chair[0][1] + chair[1][1]) / 2
    assert cube[0][2] > chair[0][2]


def test_what_is_under_a_table_stands_on_the_floor_below_it():
    (cube, table), _ = boxes([CUBE, TABLE], [0.3, 1.0], ["under"])
    torch.testing.assert_close(cube[0][1], table[0][1])
    assert cube[1][1] < table[1][1] and (cube[0] > table[0] - 1e-4).all() and (cube[1] < table[1]).all()


def test_what_has_no_room_under_something_carries_it():
    (below, above), _ = boxes([CUBE, CUBE], [0.3, 1.0], ["under"])
    assert float(above[0][1] - below[1][1]) == pytest.approx(0, abs=0.1)


def test_what_is_worn_encloses_the_highest_part():
    (one, hat), _ = boxes([CHAIR, CUBE], [1.0, 0.3], ["wearing"])
    height = float(hat[1][1] - hat[0][1])
    assert float(hat[0][1] - one[1][1]) == pytest.approx(-SUNK * height, abs=0.1)
    assert float((hat[0] + hat[1])[2]) < float((one[0] + one[1])[2])  # above the back, which is at -z


def test_a_chain_is_read_from_its_beginning_and_stays_in_the_unit_sphere():
    (first, second, table, last), _ = boxes([CUBE, CUBE, TABLE, CUBE], [0.2, 0.2, 1.0, 0.5], ["and", "on", "and"])
    for low, _ in (first, second):
        assert float(low[1] - table[1][1]) == pytest.approx(0, abs=0.08)
    torch.testing.assert_close(last[0][1], table[0][1])
    assert max(float(corner.norm()) for box in (first, second, table, last) for corner in box) < 1.3
    assert float(torch.stack([low for low, _ in (first, second, table, last)]).amin(0).norm()) < 1.3


@pytest.mark.parametrize("seed", range(20))
def test_any_chain_has_a_place_in_the_unit_sphere(seed):
    rng = random.Random(seed)
    volumes = torch.stack([rng.choice([CUBE, TABLE, CHAIR]) for _ in range(4)])
    chain = [rng.choice([*SIDES, *MOST]) for _ in range(3)]
    placed = arrange(volumes, [rng.uniform(0.25, 2) for _ in range(4)], chain)
    assert placed.isfinite().all() and (placed[:, 3] > 0).all() and placed[:, :3].norm(dim=1).max() < 1


def test_an_empty_volume_has_a_place_too():
    empty = torch.full((N, N, N, 2), -9.0)
    assert arrange(torch.stack([CUBE, empty]), [1.0, 1.0], ["on"]).isfinite().all()
