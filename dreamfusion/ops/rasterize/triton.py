"""`differentiable.visible` on any GPU: a Triton program finds the nearest faces of one tile of 16 x 16 pixels.

Faces are binned to the tiles with torch; the number of pairs is the only value that the host reads (`binning.py`). A
program owns its pixels, so that nothing is atomic and the same faces win from run to run. float64 without contraction,
as the reference: a pixel centre on the edge of two faces belongs to one of them. `interpolate` is the reference's.
"""

import triton
import triton.language as tl
from torch import Tensor

from dreamfusion.ops.binning import SIDE, bin_boxes
from dreamfusion.ops.launch import launch, tile
from dreamfusion.ops.rasterize.reference import DEGENERATE, TOLERANCE, interpolate

__all__ = ["interpolate", "visible"]
_TOLERANCE, _DEGENERATE = tl.constexpr(TOLERANCE), tl.constexpr(DEGENERATE)
_TILE = {"SIDE": SIDE, "CHUNK": tile(4, interpreted=64), "num_warps": 8, "enable_fp_fusion": False}


def visible(points: Tensor, faces: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """See `differentiable.visible`."""
    points, faces = points.contiguous(), faces.contiguous()
    corners = points[:, faces]  # (B, F, 3, 3)
    places = corners[..., :2]
    bins = bin_boxes(places.amin(2), places.amax(2), (corners[..., 2] > 0).all(-1), height, width)
    seen = faces.new_empty(len(points), height, width)
    nearest = points.new_empty(seen.shape)
    sizes = points.shape[1], len(faces), height, width
    launch(_visible, (len(bins.starts) - 1,), points, faces, bins.starts, bins.items, seen, nearest, *sizes, **_TILE)
    return seen, nearest


@triton.jit(do_not_specialize=["vertices", "count", "height", "width"])
def _visible(
    points: tl.tensor,  # (B, V, 3)
    faces: tl.tensor,  # (F, 3) int64
    starts: tl.tensor,  # (B T + 1,) int32
    items: tl.tensor,  # (P,) int32 faces, counted through all views
    seen: tl.tensor,  # (B, H, W) int64
    nearest: tl.tensor,  # (B, H, W)
    vertices: tl.tensor,  # V
    count: tl.tensor,  # F
    height: tl.tensor,
    width: tl.tensor,
    SIDE: tl.constexpr,
    CHUNK: tl.constexpr,
) -> None:
    """Test the faces of a tile at its pixel centres, CHUNK at once; of equal depths the first face is seen."""
    cell = tl.program_id(0)
    across = tl.cdiv(width, SIDE)
    tiles = across * tl.cdiv(height, SIDE)
    view, pixel = cell // tiles, tl.arange(0, SIDE * SIDE)
    row = cell % tiles // across * SIDE + pixel // SIDE
    column = cell % tiles % across * SIDE + pixel % SIDE
    x, y = column.to(tl.float64) + 0.5, row.to(tl.float64) + 0.5
    screen = points + view.to(tl.int64) * vertices * 3
    best, front = tl.zeros((SIDE * SIDE,), tl.float64), tl.full((SIDE * SIDE,), -1, tl.int32)
    end = tl.load(starts + cell + 1)
    for at in range(tl.load(starts + cell), end, CHUNK):
        pair = at + tl.arange(0, CHUNK)
        own = pair < end
        face = tl.load(items + pair, mask=own, other=0) - view * count
        inverse_depth = _inverse_depth(screen, faces, face, own, x, y)
        top = tl.max(inverse_depth, axis=0)
        first = tl.min(tl.where(inverse_depth == top[None, :], face[:, None], count), axis=0)
        front = tl.where(top > best, first, front)
        best = tl.maximum(top, best)
    inside = (row < height) & (column < width)
    place = (view.to(tl.int64) * height + row) * width + column
    tl.store(seen + place, front.to(tl.int64), mask=inside)
    tl.store(nearest + place, best.to(tl.float32), mask=inside)


@triton.jit
def _inverse_depth(
    screen: tl.tensor, faces: tl.tensor, face: tl.tensor, own: tl.tensor, x: tl.tensor, y: tl.tensor
) -> tl.tensor:
    """1 / depth of the faces at the pixel centres, (CHUNK, SIDE^2); 0 where a face does not cover the centre."""
    ax, ay, aq = _corner(screen, tl.load(faces + 3 * face, mask=own, other=0), own)
    bx, by, bq = _corner(screen, tl.load(faces + 3 * face + 1, mask=own, other=0), own)
    cx, cy, cq = _corner(screen, tl.load(faces + 3 * face + 2, mask=own, other=0), own)
    ax, bx, cx = ax - x[None, :], bx - x[None, :], cx - x[None, :]
    ay, by, cy = ay - y[None, :], by - y[None, :], cy - y[None, :]
    # Edge functions: one is exactly the other's negative where two faces share an edge.
    one, two, three = bx * cy - cx * by, cx * ay - ax * cy, ax * by - bx * ay
    area = one + two + three
    size = tl.abs(area)
    least = -_TOLERANCE * size
    sign = tl.where(area < 0, -1.0, 1.0).to(tl.float64)
    covered = own[:, None] & (size >= _DEGENERATE) & (sign * one >= least) & (sign * two >= least)
    covered = covered & (sign * three >= least)
    return tl.where(covered, (one * aq + two * bq + three * cq) / tl.where(covered, area, 1.0), 0.0)


@triton.jit
def _corner(screen: tl.tensor, vertex: tl.tensor, own: tl.tensor) -> tl.tuple:
    """Column, row and 1 / depth of a corner of each face, (CHUNK, 1)."""
    at = screen + 3 * vertex[:, None]
    x, y = tl.load(at, mask=own[:, None], other=0.0), tl.load(at + 1, mask=own[:, None], other=0.0)
    return x.to(tl.float64), y.to(tl.float64), tl.load(at + 2, mask=own[:, None], other=0.0).to(tl.float64)
