"""Place several objects in one scene: who stands where, how large, from the opacity of their feature volumes.

Letters: G objects, P points of an object. Lengths are scene units; an object alone lies in the unit sphere.
"""

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from dreamfusion.pocket.model.rays import HALF_EXTENT

SOLID = 0.3  # optical depth of a voxel from which it counts as a part of the object
GAP = 0.08  # between objects beside each other
CELL = 0.05  # side of a cell of the ground plan
SHIFT, SHIFTS = 0.1, 5  # step and number of steps, to either side, of the search for a place to stand
SHRUNK = (1.0, 0.75, 0.55, 0.4)  # factors that are tried on what is under something
CROWN = 0.08  # depth below the highest point of what counts as the top of a head
SUNK = 0.25  # share of the height of what is worn by which it encloses the head
FEET, STANDS = 0.12, 0.6  # height of what an object stands on; share of it that must have support
FAR = 0.4  # cost of a shift from the middle, relative to the height at which an object comes to stand
# Relation of the objects before to the next one -> axis, and whether the next one has the larger coordinate.
SIDES = {
    "and": (0, True),
    "with": (0, True),
    "left of": (0, True),
    "right of": (0, False),
    "in front of": (2, False),
    "behind": (2, True),
}
MOST = {"on": 0.8, "in": 0.7, "wearing": 0.7, "under": 0.7}  # relation -> largest size relative to the other object
OVERLAP = 0.1  # share of an object's cells under another one that may be the other's as well


def arrange(volumes: Tensor, lengths: Sequence[float], relations: Sequence[str]) -> Tensor:
    """Centre and scale of each object, (G, 4), so that all together lie in the unit sphere.

    The chain is read from its beginning: each object is placed against all before it. What is on or in something stands
    at the lowest place near its middle that supports it.

    Args:
        volumes: (G, N, N, N, C), decoded feature volumes.
        lengths: longest side of each object, in any unit; the relation may ask for less.
        relations: of each object but the first to those before it, values of `words.RELATIONS`.
    """
    parts = [_points(volume) for volume in volumes.cpu()]
    scales = [length / max(lengths) / _extent(part) for length, part in zip(lengths, parts, strict=True)]
    placed = torch.tensor([[0.0, 0.0, 0.0, scale] for scale in scales])
    for new, relation in enumerate(relations, start=1):
        before, own = _all_points(parts[:new], placed), parts[new] * scales[new]
        if relation in SIDES:
            placed[new, :3] = _beside(before, own, relation)
            continue
        small = slice(new, new + 1) if relation == "wearing" else slice(new)  # the smaller one is moved to the other
        other, moved = (before, own) if relation == "wearing" else (own, before)
        scale = min(1.0, MOST[relation] * _extent(other) / _extent(moved))
        if relation == "under":
            scale, offset = _below(moved, other, scale)
        elif relation == "wearing":
            crown = other[other[:, 1] > other[:, 1].max() - CROWN]
            offset = _standing(moved * scale, other, _middle(crown), 0)
            offset[1] -= SUNK * scale * float(moved[:, 1].max() - moved[:, 1].min())
        else:
            offset = _standing(moved * scale, other, _middle(other), SHIFTS)
        placed[small] *= scale
        placed[small, :3] += offset
    whole = _all_points(parts, placed)
    middle = (whole.amax(0) + whole.amin(0)) / 2
    radius = (whole - middle).norm(dim=1).max()
    return torch.cat([placed[:, :3] - middle, placed[:, 3:]], dim=1) / radius


def _all_points(parts: Sequence[Tensor], placed: Tensor) -> Tensor:
    """The points of all `parts`, (P, 3) each, where `placed` (G, 4) puts them."""
    return torch.cat([part * place[3] + place[:3] for part, place in zip(parts, placed, strict=False)])


def _points(volume: Tensor) -> Tensor:
    """Centres of the solid voxels of (N, N, N, C), (P, 3); of all in the unit sphere if none is solid."""
    steps = ((torch.arange(len(volume)) + 0.5) * (2 / len(volume)) - 1) * HALF_EXTENT
    z, y, x = torch.meshgrid(steps, steps, steps, indexing="ij")
    points = torch.stack([x, y, z], dim=-1)
    inside = points.norm(dim=-1) < 1
    solid = inside & (F.softplus(volume[..., 0].float()) > SOLID)
    return points[solid if solid.any() else inside]


def _beside(before: Tensor, points: Tensor, relation: str) -> Tensor:
    """Offset (3,) of `points` (P, 3) beside those `before`, on one floor."""
    low, high, own_low, own_high = before.amin(0), before.amax(0), points.amin(0), points.amax(0)
    offset = (low + high - own_low - own_high) / 2
    offset[1] = low[1] - own_low[1]
    axis, after = SIDES[relation]
    offset[axis] = high[axis] + GAP - own_low[axis] if after else low[axis] - GAP - own_high[axis]
    return offset


def _below(points: Tensor, other: Tensor, scale: float) -> tuple[float, Tensor]:
    """Scale, at most `scale`, and offset (3,) of `points` (P, 3) under `other`, on one floor.

    If there is no room even for a small one, the other stands on it.
    """
    taken = {tuple(cell) for cell in torch.round(other / CELL).long().tolist()}
    for less in SHRUNK:
        offset = _middle(other) - _middle(points * scale * less)
        offset[1] = other[:, 1].min() - points[:, 1].min() * scale * less
        cells = {tuple(cell) for cell in torch.round((points * scale * less + offset) / CELL).long().tolist()}
        if len(taken & cells) <= OVERLAP * len(cells):
            return scale * less, offset
    return scale, -_standing(other, points * scale, _middle(points * scale), 0)


def _standing(upper: Tensor, lower: Tensor, middle: Tensor, shifts: int) -> Tensor:
    """Offset (3,) with which `upper` (P, 3) stands on `lower`: low, near the `middle` of the plan, and supported.

    `shifts` is how many steps to either side are tried; 0: the middle alone.
    """
    # Both plans have the `middle` in their own one, and room for the steps: nothing leaves them on one side.
    upper, lower, away = upper - _middle(upper), lower - middle, middle - _middle(upper)
    span = 4 + 2 * int((torch.cat([upper, lower]).abs().max() + shifts * SHIFT) / CELL)
    top, bottom = _plan(lower, span, highest=True), _plan(upper, span, highest=False)
    feet = bottom < upper[:, 1].min() + FEET
    best, offset = float("inf"), torch.zeros(3)
    steps = [step * SHIFT for step in range(-shifts, shifts + 1)]
    for x, z in sorted(product(steps, steps), key=lambda step: step[0] ** 2 + step[1] ** 2):
        below = torch.roll(top, (-round(z / CELL), -round(x / CELL)), (0, 1))
        meets = below.isfinite() & bottom.isfinite()
        if not meets.any():
            continue
        height = float((below - bottom)[meets].max())
        support = float((meets & feet).sum() / feet.sum())
        cost = height + FAR * (x**2 + z**2) ** 0.5 + (10 if support < STANDS else 0)
        if cost < best:
            best, offset = cost, away + torch.tensor([x, height, z])
    return offset


def _extent(points: Tensor) -> float:
    """Longest side of the box of (P, 3)."""
    return float((points.amax(0) - points.amin(0)).max())


def _middle(points: Tensor) -> Tensor:
    """Middle of the box of (P, 3) in the ground plan, (3,), with height 0."""
    middle = (points.amax(0) + points.amin(0)) / 2
    middle[1] = 0
    return middle


def _plan(points: Tensor, span: int, highest: bool) -> Tensor:
    """Heights of (P, 3) over the ground plan, (span, span) by z and x; NaN where there is nothing."""
    row, column = (torch.round(points[:, axis] / CELL).long() + span // 2 for axis in (2, 0))
    plan = torch.full((span * span,), float("nan"))
    empty = -float("inf") if highest else float("inf")
    filled = torch.full_like(plan, empty).scatter_reduce(
        0, row * span + column, points[:, 1], "amax" if highest else "amin"
    )
    return torch.where(filled.isfinite(), filled, plan).view(span, span)
