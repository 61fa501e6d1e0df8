"""Torch reference of `differentiable.visible` and `differentiable.interpolate`, on every device."""

import torch
from torch import Tensor

from dreamfusion.ops.backend import widest_float

TOLERANCE = 1e-9  # of barycentric coordinates: prevents cracks along shared edges from rounding
DEGENERATE = 1e-12  # squared pixels: twice the area of faces that are not drawn


def visible(points: Tensor, faces: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """See `differentiable.visible`: tests each face at all pixels of its bounding box."""
    seen = torch.full((len(points), height * width), -1, device=points.device)
    nearest = torch.zeros(len(points), height * width, device=points.device)
    for view, screen in enumerate(points.to(widest_float(points.device))):
        corners = screen[faces]  # (F, 3, 3)
        limit = corners.new_tensor([width, height])
        low = (corners[..., :2].amin(1) - 0.5).ceil().clamp(min=0)
        high = torch.minimum((corners[..., :2].amax(1) - 0.5).floor(), limit - 1)
        columns, rows = ((high - low + 1).clamp(min=0) * (corners[..., 2] > 0).all(1, keepdim=True)).long().unbind(1)
        count = columns * rows
        face = torch.repeat_interleave(count)
        place = torch.arange(len(face), device=points.device) - (count.cumsum(0) - count)[face]
        column = low[face, 0].long() + place % columns[face]
        row = low[face, 1].long() + place // columns[face]
        functions = edge_functions(corners[face], column, row)
        area = functions.sum(1)
        share = functions / area[:, None]
        inside = (share >= -TOLERANCE).all(1) & (area.abs() >= DEGENERATE)
        inverse_depth = torch.where(inside, (share * corners[face, :, 2]).sum(1), 0.0)
        pixel = row * width + column
        best = inverse_depth.new_zeros(height * width).scatter_reduce(0, pixel, inverse_depth, "amax")
        front = inside & (inverse_depth == best[pixel])
        none = torch.full((height * width,), len(faces), device=points.device)
        first = none.scatter_reduce(0, pixel[front], face[front], "amin")
        seen[view], nearest[view] = torch.where(first < len(faces), first, -1), best
    return seen.view(-1, height, width), nearest.view(-1, height, width)


def interpolate(points: Tensor, faces: Tensor, seen: Tensor, attributes: Tensor) -> Tensor:
    """See `differentiable.interpolate`."""
    view, row, column = (seen >= 0).nonzero(as_tuple=True)
    corner = faces[seen[view, row, column]]  # (N, 3)
    screen = points[view[:, None], corner]
    weight = edge_functions(screen, column, row) * screen[..., 2]
    weight = weight / weight.sum(1, keepdim=True)
    values = (weight[..., None] * attributes[corner]).sum(1)
    empty = attributes.new_zeros(*seen.shape, attributes.shape[1])
    return empty.index_put((view, row, column), values)


def edge_functions(screen: Tensor, column: Tensor, row: Tensor) -> Tensor:
    """(N, 3) twice the signed areas of N pixel centres with the edge opposite each corner of `screen` (N, 3, ...)."""
    to = screen[..., :2] - torch.stack([column, row], dim=-1)[:, None] - 0.5
    after, before = to.roll(-1, dims=1), to.roll(1, dims=1)
    return after[..., 0] * before[..., 1] - before[..., 0] * after[..., 1]
