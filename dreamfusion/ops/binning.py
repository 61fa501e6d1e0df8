"""Bin boxes on the screen to its tiles, with torch on any device, for the Triton kernels of `splat` and `rasterize`.

The host reads the number of pairs of a tile and a box that reaches it, the only synchronisation: memory is allocated
for the pairs. Letters: B views, M boxes, T tiles, P pairs, H W pixels.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from dreamfusion.ops.constants import constant

SIDE = 16  # pixels of a tile


class Bins(NamedTuple):
    """Tiles count row by row, view by view; boxes by their order, view by view."""

    starts: Tensor  # (B T + 1,) int32; the pairs of tile t are those from starts[t] to starts[t + 1]
    items: Tensor  # (P,) int32 box of each pair, in a tile in the order of the boxes
    slots: Tensor  # (P,) int32 place of each pair where those of a box are neighbours
    ends: Tensor  # (B M + 1,) int64; in that order, the pairs of box m are those from ends[m] to ends[m + 1]


def bin_boxes(low: Tensor, high: Tensor, drawn: Tensor, height: int, width: int) -> Bins:
    """The boxes that hold a pixel centre of each tile.

    Args:
        low, high: (B, M, 2) column and row of the corners; the centre of the first pixel is (0.5, 0.5). A box with
            NaN reaches no tile.
        drawn: (B, M) bool, False for boxes to leave out.
        height, width: pixels.
    """
    down, across = -(-height // SIDE), -(-width // SIDE)
    first = (low - 0.5).ceil().clamp(min=0)
    last = torch.minimum((high - 0.5).floor(), constant((width - 1.0, height - 1.0), high.device, high.dtype))
    drawn = drawn & (first <= last).all(-1)
    # The choice comes before the conversion: an integer holds neither infinity nor NaN.
    first, last = (torch.where(drawn[..., None], end, 0.0).long() // SIDE for end in (first, last))
    columns, rows = ((last - first + 1) * drawn[..., None]).view(-1, 2).unbind(1)
    left, top = first.view(-1, 2).unbind(1)
    ends = torch.nn.functional.pad((columns * rows).cumsum(0), (1, 0))
    total = int(ends[-1])
    box = torch.repeat_interleave(columns * rows, output_size=total)
    place = torch.arange(total, device=box.device) - ends[box]
    view, wide = box // max(low.shape[1], 1), columns[box]
    tile = (view * down + top[box] + place // wide) * across + left[box] + place % wide
    tile, slots = tile.int().sort(stable=True)
    every = torch.arange(len(low) * down * across + 1, device=tile.device, dtype=torch.int32)
    return Bins(torch.searchsorted(tile, every, out_int32=True), box.int()[slots], slots.int(), ends)
