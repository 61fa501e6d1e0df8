"""Hash encoding on any GPU: Triton kernels, and the backend functions of derivatives.py on them.

A lane computes one point on one level, in the order of the levels (after tiny-cuda-nn's blockIdx.y = level), or on all
levels where they are summed. Letters: S points, L levels, F features, W = L F. Arrays are feature-major, (3, S) and
(W, S), so that neighbouring lanes access neighbouring numbers; the F numbers of an entry are read together. Bit d of
corner c is its step along axis d. Deterministic but for `table_gradient`, which sums by atomics: the last bits vary.
"""

import sys
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from dreamfusion.ops.hash_grid.derivatives import Encode
from dreamfusion.ops.hash_grid.layout import PRIMES, HashGridLayout
from dreamfusion.ops.launch import launch, tile

_PRIME_Y, _PRIME_Z = (tl.constexpr(prime) for prime in PRIMES[1:])
_LANES = tile(128, interpreted=4096)


def hash_encode(positions: Tensor, table: Tensor, layout: HashGridLayout) -> Tensor:
    """(S, 3), (P,) -> (S, W), the transpose of a contiguous tensor."""
    encoded: Tensor = Encode.apply(positions, table, layout, sys.modules[__name__])
    return encoded


def encode(positions: Tensor, v: Tensor | None, table: Tensor, layout: HashGridLayout) -> Tensor:
    """See `derivatives`."""
    out = positions.new_empty(layout.width, len(positions))
    direction = out if v is None else _feature_major(v)  # any pointer where there is none
    arrays = _feature_major(positions), direction, table.contiguous()
    _launch(_encode, layout, layout.levels, *arrays, out, ALONG=v is not None)
    return out.t()


def table_gradient(
    positions: Tensor, v: Tensor | None, gradient: Tensor | None, tangent: Tensor | None, layout: HashGridLayout
) -> Tensor:
    """See `derivatives`."""
    out = positions.new_zeros(layout.parameter_count)
    direction, g, t = (out if each is None else _feature_major(each) for each in (v, gradient, tangent))
    arrays = _feature_major(positions), direction, g, t
    _launch(_table_gradient, layout, layout.levels, *arrays, out, PLAIN=gradient is not None, ALONG=v is not None)
    return out


def position_gradient(
    positions: Tensor, v: Tensor | None, gradient: Tensor, table: Tensor, layout: HashGridLayout
) -> Tensor:
    """See `derivatives`."""
    out = positions.new_empty(3, len(positions))
    direction = out if v is None else _feature_major(v)
    arrays = _feature_major(positions), direction, _feature_major(gradient), table.contiguous()
    _launch(_position_gradient, layout, 1, *arrays, out, ALONG=v is not None)
    return out.t()


def _launch(kernel: Any, layout: HashGridLayout, levels: int, x: Tensor, *arrays: Tensor, **settings: bool) -> None:
    """Run a kernel on x (3, S) with a lane for each point on each of `levels` levels; at most 2^31 lanes."""
    count, constants = x.shape[1], {"F": layout.features, "L": layout.levels, "LANES": _LANES}
    *inputs, out = arrays
    everything = x, *inputs, *_levels(layout, x.device), out, count
    launch(kernel, (triton.cdiv(count * levels, _LANES),), *everything, **constants, **settings)


def _feature_major(rows: Tensor) -> Tensor:
    """(S, n) -> (n, S) contiguous; without a copy if the rows are the transpose of such a tensor."""
    return rows.t().contiguous()


@cache
def _levels(layout: HashGridLayout, device: torch.device) -> tuple[Tensor, Tensor]:
    """Scales (L,) float32; resolution, size, first entry and whether dense (L, 4) int64."""
    rows = zip(layout.resolutions, layout.sizes, layout.offsets, layout.dense, strict=True)
    return torch.tensor(layout.scales, device=device), torch.tensor(list(rows), dtype=torch.int64, device=device)


@triton.jit(do_not_specialize=["count"])
def _encode(
    x: tl.tensor,  # (3, S)
    v: tl.tensor,  # (3, S), unused without ALONG
    table: tl.tensor,  # (P,)
    scales: tl.tensor,  # (L,)
    levels: tl.tensor,  # (L, 4) int64
    out: tl.tensor,  # (W, S)
    count: tl.tensor,  # S
    F: tl.constexpr,
    L: tl.constexpr,
    LANES: tl.constexpr,
    ALONG: tl.constexpr,
) -> None:
    """out[l F + f, s] = sum over corners c of w_c(x_s) table[c, f]; ALONG: of (v_s . grad w_c(x_s)) table[c, f]."""
    lane, feature = tl.program_id(0) * LANES + tl.arange(0, LANES), tl.arange(0, F)
    level, point, valid = tl.minimum(lane // count, L - 1), lane % count, (lane < count * L)[:, None]
    cell, fraction, velocity = _locate(x, v, point, count, tl.load(scales + level), ALONG)
    shape, total = _shape(levels, level), tl.zeros((LANES, F), tl.float32)
    for c in tl.static_range(8):
        number = _entry(cell, shape, c)[:, None] * F + feature[None, :]
        weight = _weight(fraction, velocity, c, ALONG)[:, None]
        total += weight * tl.load(table + number, mask=valid, other=0.0)
    tl.store(out + _places(level, point, feature, count, F), total, mask=valid)


@triton.jit(do_not_specialize=["count"])
def _table_gradient(
    x: tl.tensor,  # (3, S)
    v: tl.tensor,  # (3, S), unused without ALONG
    gradient: tl.tensor,  # (W, S), unused without PLAIN
    tangent: tl.tensor,  # (W, S), unused without ALONG
    scales: tl.tensor,  # (L,)
    levels: tl.tensor,  # (L, 4) int64
    out: tl.tensor,  # (P,), zeros
    count: tl.tensor,  # S
    F: tl.constexpr,
    L: tl.constexpr,
    LANES: tl.constexpr,
    PLAIN: tl.constexpr,
    ALONG: tl.constexpr,
) -> None:
    """out[c, f] += w_c(x_s) gradient[l F + f, s] (PLAIN) + (v_s . grad w_c(x_s)) tangent[l F + f, s] (ALONG)."""
    lane, feature = tl.program_id(0) * LANES + tl.arange(0, LANES), tl.arange(0, F)
    level, point, valid = tl.minimum(lane // count, L - 1), lane % count, (lane < count * L)[:, None]
    cell, fraction, velocity = _locate(x, v, point, count, tl.load(scales + level), ALONG)
    shape, place = _shape(levels, level), _places(level, point, feature, count, F)
    for c in tl.static_range(8):
        share = tl.zeros((LANES, F), tl.float32)
        if PLAIN:
            weight = _weight(fraction, velocity, c, False)[:, None]
            share += weight * tl.load(gradient + place, mask=valid, other=0.0)
        if ALONG:
            weight = _weight(fraction, velocity, c, True)[:, None]
            share += weight * tl.load(tangent + place, mask=valid, other=0.0)
        number = _entry(cell, shape, c)[:, None] * F + feature[None, :]
        tl.atomic_add(out + number, share, mask=valid, sem="relaxed")


@triton.jit(do_not_specialize=["count"])
def _position_gradient(
    x: tl.tensor,  # (3, S)
    v: tl.tensor,  # (3, S), unused without ALONG
    gradient: tl.tensor,  # (W, S)
    table: tl.tensor,  # (P,)
    scales: tl.tensor,  # (L,)
    levels: tl.tensor,  # (L, 4) int64
    out: tl.tensor,  # (3, S)
    count: tl.tensor,  # S
    F: tl.constexpr,
    L: tl.constexpr,
    LANES: tl.constexpr,
    ALONG: tl.constexpr,
) -> None:
    """out[d, s] = sum over levels and corners of dw_c / dx_d a_c, with a_c = <gradient_s, table[c]>.

    ALONG: of the derivative of v_s . grad w_c, which is the product of the Hessian (its diagonal is 0) and v.
    """
    point, feature = tl.program_id(0) * LANES + tl.arange(0, LANES), tl.arange(0, F)
    valid, nothing = (point < count)[:, None], tl.zeros((LANES,), tl.float32)
    to_x, to_y, to_z = nothing, nothing, nothing
    for level in range(L):
        scale, shape = tl.load(scales + level), _shape(levels, level)
        cell, fraction, velocity = _locate(x, v, point, count, scale, ALONG)
        along = tl.load(gradient + _places(level, point, feature, count, F), mask=valid, other=0.0)
        by_x, by_y, by_z = nothing, nothing, nothing  # per cell
        for c in tl.static_range(8):
            number = _entry(cell, shape, c)[:, None] * F + feature[None, :]
            a = tl.sum(along * tl.load(table + number, mask=valid, other=0.0), axis=1)
            wx, wy, wz = _side(fraction[0], c, 0), _side(fraction[1], c, 1), _side(fraction[2], c, 2)
            if ALONG:
                vx, vy, vz = velocity[0] * _sign(c, 0), velocity[1] * _sign(c, 1), velocity[2] * _sign(c, 2)
                by_x += a * _sign(c, 0) * (vy * wz + vz * wy)
                by_y += a * _sign(c, 1) * (vx * wz + vz * wx)
                by_z += a * _sign(c, 2) * (vx * wy + vy * wx)
            else:
                by_x += a * _sign(c, 0) * wy * wz
                by_y += a * _sign(c, 1) * wx * wz
                by_z += a * _sign(c, 2) * wx * wy
        to_x, to_y, to_z = to_x + scale * by_x, to_y + scale * by_y, to_z + scale * by_z
    _store_kept(x, out, point, count, to_x)
    _store_kept(x + count, out + count, point, count, to_y)
    _store_kept(x + 2 * count, out + 2 * count, point, count, to_z)


@triton.jit
def _locate(
    x: tl.tensor, v: tl.tensor, point: tl.tensor, count: tl.tensor, scale: tl.tensor, ALONG: tl.constexpr
) -> tl.tuple:
    """Cell of each point, its position in the cell, and v in cells (0 without ALONG), each along three axes."""
    cell_x, fx, vx = _locate_axis(x, v, point, count, scale, ALONG)
    cell_y, fy, vy = _locate_axis(x + count, v + count, point, count, scale, ALONG)
    cell_z, fz, vz = _locate_axis(x + 2 * count, v + 2 * count, point, count, scale, ALONG)
    return (cell_x, cell_y, cell_z), (fx, fy, fz), (vx, vy, vz)


@triton.jit
def _locate_axis(
    x: tl.tensor, v: tl.tensor, point: tl.tensor, count: tl.tensor, scale: tl.tensor, ALONG: tl.constexpr
) -> tl.tuple:
    at = tl.load(x + point, mask=point < count, other=0.0)
    # Comparisons keep a NaN, which minimum and maximum may drop. Half a cell staggers the levels (C:1017-1029).
    scaled = tl.fma(tl.where(at < 0, 0.0, tl.where(at > 1, 1.0, at)), scale, 0.5)
    floor = tl.floor(scaled)
    velocity = tl.zeros_like(at)
    if ALONG:
        kept = (at >= 0) & (at <= 1)  # no derivative along a clamped coordinate
        velocity += tl.where(kept, scale * tl.load(v + point, mask=point < count, other=0.0), 0.0)
    cell = tl.where(scaled == scaled, floor, 0.0).to(tl.int32).to(tl.uint32)  # a NaN reads the first cell
    return cell, scaled - floor, velocity


@triton.jit
def _shape(levels: tl.tensor, level: tl.tensor) -> tl.tuple:
    """Resolution, size, first entry and whether dense, of each level."""
    row = levels + level * 4
    return tl.load(row).to(tl.uint32), tl.load(row + 1).to(tl.uint32), tl.load(row + 2), tl.load(row + 3) != 0


@triton.jit
def _entry(cell: tl.tuple, shape: tl.tuple, c: tl.constexpr) -> tl.tensor:
    """Entry of corner c of the cells in the whole table; int64, as 32 levels may have 2^28 entries."""
    x, y, z = cell[0] + (c & 1), cell[1] + ((c >> 1) & 1), cell[2] + ((c >> 2) & 1)
    resolution, size, first, dense = shape
    hashed = (x ^ (y * _PRIME_Y) ^ (z * _PRIME_Z)) & (size - 1)  # a hashed level has 2^n entries
    indexed = x + resolution * (y + resolution * z)
    indexed = tl.where(indexed >= size, indexed - size, indexed)  # the far face wraps (C:883)
    return first + tl.where(dense, indexed, hashed).to(tl.int64)


@triton.jit
def _weight(fraction: tl.tuple, velocity: tl.tuple, c: tl.constexpr, ALONG: tl.constexpr) -> tl.tensor:
    """Trilinear weight of corner c, or its derivative along the velocity."""
    wx, wy, wz = _side(fraction[0], c, 0), _side(fraction[1], c, 1), _side(fraction[2], c, 2)
    weight = wx * wy * wz
    if ALONG:
        vx, vy, vz = velocity[0] * _sign(c, 0), velocity[1] * _sign(c, 1), velocity[2] * _sign(c, 2)
        weight = vx * wy * wz + vy * wx * wz + vz * wx * wy
    return weight


@triton.jit
def _side(fraction: tl.tensor, c: tl.constexpr, axis: tl.constexpr) -> tl.tensor:
    """Share of the side of the cell on which corner c lies."""
    return fraction if (c >> axis) & 1 else 1 - fraction


@triton.jit
def _sign(c: tl.constexpr, axis: tl.constexpr) -> tl.constexpr:
    """Derivative of `_side`."""
    return 2 * ((c >> axis) & 1) - 1


@triton.jit
def _places(level: tl.tensor, point: tl.tensor, feature: tl.tensor, count: tl.tensor, F: tl.constexpr) -> tl.tensor:
    """Where the features of the points on their levels are in a (W, S) array -> (LANES, F)."""
    row = (level * F + tl.zeros_like(point))[:, None] + feature[None, :]
    return row.to(tl.int64) * count + point[:, None]


@triton.jit
def _store_kept(x: tl.tensor, out: tl.tensor, point: tl.tensor, count: tl.tensor, value: tl.tensor) -> None:
    """Store a gradient along one axis, 0 where clamping changes the coordinate."""
    at = tl.load(x + point, mask=point < count, other=0.0)
    tl.store(out + point, tl.where((at >= 0) & (at <= 1), value, 0.0), mask=point < count)
