"""A surface from signed distances on a lattice, differentiable: one vertex in each cell that it passes.

Surface nets (Gibson 1998) with the offsets of a dual grid, as in FlexiCubes (Shen et al. 2023). A quarter of the faces
of marching tetrahedra (DMTet, Shen et al. 2021) on the same lattice, and none of its slivers. Letters: N cells a side,
V F vertices and faces, K lattice edges that the surface crosses.
"""

import torch
from torch import Tensor

CORNERS = [(i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1)]  # of a cell
AROUND = ((-1, -1), (0, -1), (0, 0), (-1, 0))  # the cells around a lattice edge, counter-clockwise seen against it


def dual_surface(distance: Tensor, offset: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The surface between the lattice points of negative and positive distance.

    A vertex is the mean of the points where the surface crosses the edges of its cell, found linearly, plus
    tanh(offset) / 2. A crossed lattice edge gives two faces, which join the vertices of the four cells around it,
    counter-clockwise seen from outside; where a cell holds two sheets they share its vertex.

    Args:
        distance: (N + 1, N + 1, N + 1) in cells, negative inside, positive on the border.
        offset: (N, N, N, 3).

    Returns:
        Vertices (V, 3) in cells from the first lattice point, faces (F, 3) int64, and the vertices' cells (V,) int64.
    """
    side, device = len(distance) - 1, distance.device
    inside = distance < 0
    crossings, cells, inward = [], [], []
    for axis in range(3):
        low, high = distance.narrow(axis, 0, side), distance.narrow(axis, 1, side)
        place = (inside.narrow(axis, 0, side) != inside.narrow(axis, 1, side)).nonzero()  # (K, 3)
        one, two = low[tuple(place.T)], high[tuple(place.T)]
        along = torch.zeros(3, device=device).index_fill(0, torch.tensor(axis, device=device), 1.0)
        crossings.append(place + (one / (one - two))[:, None] * along)
        around = place[:, None].repeat(1, 4, 1)
        for index, step in enumerate(AROUND):
            around[:, index, (axis + 1) % 3] += step[0]
            around[:, index, (axis + 2) % 3] += step[1]
        cells.append((around[..., 0] * side + around[..., 1]) * side + around[..., 2])
        inward.append(one >= 0)
    cell, place = torch.cat(cells), torch.cat(crossings)  # (K, 4), (K, 3)
    used = torch.zeros(side**3, dtype=torch.bool, device=device)
    used[cell.flatten()] = True
    number, active = used.cumsum(0) - 1, used.nonzero()[:, 0]
    corner = number[cell]
    count = place.new_zeros(len(active)).index_add(0, corner.flatten(), place.new_ones(corner.numel()))
    total = place.new_zeros(len(active), 3).index_add(0, corner.flatten(), place.repeat_interleave(4, dim=0))
    vertices = total / count[:, None] + offset.view(-1, 3)[active].tanh() / 2
    quads = torch.where(torch.cat(inward)[:, None], corner.flip(1), corner)
    return vertices, _triangles(vertices.detach(), quads), active


def lattice_gradient(distance: Tensor, cells: Tensor) -> Tensor:
    """Gradient (V, 3) of the trilinear interpolation of `distance` at the centres of `cells` (V,)."""
    side = len(distance) - 1
    base = torch.stack([cells // side**2, cells // side % side, cells % side], dim=1)
    corners = torch.tensor(CORNERS, device=cells.device)  # (8, 3)
    place = base[:, None] + corners
    values = distance[place[..., 0], place[..., 1], place[..., 2]]
    with torch.autocast(values.device.type, enabled=False):
        return values @ (corners * 2 - 1).to(values.dtype) / 4


def _triangles(vertices: Tensor, quads: Tensor) -> Tensor:
    """Two triangles for each quadrilateral (K, 4), along its shorter diagonal."""
    diagonal = [(vertices[quads[:, i]] - vertices[quads[:, i + 2]]).square().sum(1) for i in (0, 1)]
    turned = torch.where((diagonal[1] < diagonal[0])[:, None], quads.roll(-1, dims=1), quads)
    return torch.cat([turned[:, :3], torch.cat([turned[:, :1], turned[:, 2:]], dim=1)])
