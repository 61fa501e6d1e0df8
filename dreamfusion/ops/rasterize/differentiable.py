"""Differentiable rasterisation of a triangle mesh: visible faces, interpolated attributes, antialiased silhouettes.

After nvdiffrast (Laine et al. 2020), except that silhouettes are found from the edges, not from the pixels, so that
edges of faces that cover no pixel centre count too. Letters: B views, H W pixels, V F vertices and faces, E edges,
C channels, N crossings of silhouettes with pixel lines. A screen point is (column, row, 1 / depth) in pixels and scene
units, see `camera.rays.to_screen`; a vertex behind the camera has 1 / depth <= 0, and its faces are not drawn.
"""

import torch
from torch import Tensor

from dreamfusion.ops.backend import implementation
from dreamfusion.types import check_shape

# A silhouette counts where the pixel on its inside shows a depth of at most 1 / BESIDE times its own, and the pixel on
# its outside one of more than 1 / BEHIND times: else something hides it, or it is a fold within a surface.
BESIDE, BEHIND = 0.97, 0.99


@torch.no_grad()
def visible(
    points: Tensor, faces: Tensor, height: int, width: int, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """The face in front at each pixel centre.

    Args:
        points: (B, V, 3) screen points.
        faces: (F, 3) int64.
        height, width: pixels.
        backend: "torch", "numba", "triton" or "nvdiffrast"; None selects the fastest available one.

    Returns:
        (B, H, W) int64 index of the face, -1 where there is none, and (B, H, W) float32 1 / depth, 0 where none.
    """
    check_shape("visible: points", points.shape, (None, None, 3))
    check_shape("visible: faces", faces.shape, (None, 3))
    chosen = implementation(__package__, "rasterize", points.device, backend, points)
    seen, nearest = chosen.visible(points, faces, height, width)
    return seen, nearest


def interpolate(points: Tensor, faces: Tensor, seen: Tensor, attributes: Tensor, backend: str | None = None) -> Tensor:
    """Perspective-correct values (B, H, W, C) of vertex `attributes` (V, C) on the faces `seen` (B, H, W); 0 elsewhere.

    With edge functions e_i of the pixel centre, w_i = e_i q_i / sum_j e_j q_j for 1 / depth q_i. Differentiable with
    respect to `attributes` and `points`, as the surface moves under the pixel.
    """
    check_shape("interpolate: attributes", attributes.shape, (points.shape[1], None))
    check_shape("interpolate: seen", seen.shape, (len(points), None, None))
    chosen = implementation(__package__, "rasterize", points.device, backend, points, attributes)
    values: Tensor = chosen.interpolate(points, faces, seen, attributes)
    return values


@torch.no_grad()
def edges_of(faces: Tensor) -> Tensor:
    """(E, 4) int64 the edges of `faces` (F, 3): two ends, and the vertices opposite in the first and second face.

    The last is -1 for an edge of one face; faces after the second are ignored.
    """
    count = int(faces.amax()) + 1 if len(faces) else 1
    ends = [faces.T.reshape(-1), faces.T.roll(-1, dims=0).reshape(-1)]
    key, order = (torch.minimum(*ends) * count + torch.maximum(*ends)).sort(stable=True)
    again = torch.zeros_like(key, dtype=torch.bool)
    again[1:] = key[1:] == key[:-1]
    first = (~again).nonzero()[:, 0]
    opposite = torch.cat([faces.T.roll(1, dims=0).reshape(-1)[order], order.new_full((1,), -1)])
    shared = torch.cat([again, again.new_zeros(1)])[first + 1]
    other = torch.where(shared, opposite[first + 1], -1)
    return torch.stack([key[first] // count, key[first] % count, opposite[first], other], dim=1)


def antialias(image: Tensor, points: Tensor, edges: Tensor, nearest: Tensor) -> Tensor:
    """Blend the pixels (B, H, W, C) on both sides of each silhouette by its position between their centres.

    A silhouette crosses the line between neighbouring pixel centres L and R at the fraction d. For d > 1/2 it leaves a
    part d - 1/2 of R to L, for d < 1/2 a part 1/2 - d of L to R (Laine et al. 2020, Sec. 3.5). Steep edges are followed
    along the rows of pixels, the others along the columns. The derivative of d is the gradient of the silhouette.

    Args:
        image: (B, H, W, C), of the visible faces over the background.
        points: (B, V, 3) screen points.
        edges: (E, 4) of `edges_of`.
        nearest: (B, H, W) 1 / depth, as from `visible`.
    """
    height, width = nearest.shape[1:]
    flat, sums = image.reshape(-1, image.shape[-1]), [image.reshape(-1, image.shape[-1])]
    index, change, outlines = [], [], _silhouettes(points, edges)
    for across in (0, 1):  # coordinate along which the neighbours differ: columns, rows
        view, edge, line = _crossings(points, edges, *outlines, across, (height, width)[across])
        ends = points[view[:, None], edges[edge, :2]]  # (N, 2, 3)
        along = (line + 0.5 - ends[:, 0, 1 - across]) / (ends[:, 1, 1 - across] - ends[:, 0, 1 - across])
        place = ends[:, 0] + along[:, None] * (ends[:, 1] - ends[:, 0])
        crossing, inverse_depth = place[:, across], place[:, 2]
        left = (crossing.detach() - 0.5).floor().long()
        step = (1, width)[across]
        pixel = view * (height * width) + left * step + line * (width, 1)[across]
        keep = ((left >= 0) & (left < (width, height)[across] - 1)).nonzero()[:, 0]
        # The faces of a silhouette lie on one side of it.
        behind = points.detach()[view[keep], edges[edge[keep], 2]]
        at = ends.detach()[keep]
        slope = (at[:, 1, across] - at[:, 0, across]) / (at[:, 1, 1 - across] - at[:, 0, 1 - across])
        right_is_inside = behind[:, across] > at[:, 0, across] + slope * (behind[:, 1 - across] - at[:, 0, 1 - across])
        first, second = nearest.reshape(-1)[pixel[keep]], nearest.reshape(-1)[pixel[keep] + step]
        inside, outside = torch.where(right_is_inside, second, first), torch.where(right_is_inside, first, second)
        own = inverse_depth.detach()[keep]
        shown = (inside >= BESIDE * own) & (outside < BEHIND * own)
        keep, outward = keep[shown], torch.where(right_is_inside, -1.0, 1.0)[shown] * crossing.detach()[keep[shown]]
        # Of several between the same pixels, as along a folded outline, the outermost is seen.
        pair = pixel[keep] * 2 + right_is_inside[shown]
        farthest = outward.new_full((2 * len(flat),), -torch.inf).scatter_reduce(0, pair, outward, "amax")
        keep = keep[outward == farthest[pair]]
        part = (crossing[keep] - left[keep] - 1.0)[:, None]  # d - 1/2
        one, two = pixel[keep], pixel[keep] + step
        difference = flat[one] - flat[two]
        index += [two, one]
        change += [part.clamp(min=0) * difference, part.clamp(max=0) * difference]
    return sums[0].index_add(0, torch.cat(index), torch.cat(change)).view(image.shape)


@torch.no_grad()
def _silhouettes(points: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
    """View and edge of the edges with one face, or with both on one side as seen in the view."""
    x, y, inverse_depth = (part.contiguous() for part in points.unbind(-1))
    start, end, one, other = edges.T.contiguous()
    x0, y0 = x[:, start], y[:, start]
    run = x[:, end] - x0, y[:, end] - y0
    side = [run[0] * (y[:, third] - y0) - run[1] * (x[:, third] - x0) for third in (one, other)]
    drawn = (inverse_depth[:, start] > 0) & (inverse_depth[:, end] > 0)
    view, edge = (((side[0] * side[1] > 0) | (other < 0)) & drawn).nonzero(as_tuple=True)
    return view, edge


@torch.no_grad()
def _crossings(
    points: Tensor, edges: Tensor, view: Tensor, edge: Tensor, across: int, lines: int
) -> tuple[Tensor, Tensor, Tensor]:
    """View, edge and pixel line, (N,) each, of the silhouettes steep enough to be followed along those lines."""
    ends = points[view[:, None], edges[edge, :2], :2]
    run = (ends[:, 1] - ends[:, 0]).abs()
    steep = run[:, 1] > run[:, 0] if across == 0 else run[:, 0] >= run[:, 1]
    view, edge, place = view[steep], edge[steep], ends[steep][:, :, 1 - across]
    start = (place.amin(1) - 0.5).ceil().clamp(0, lines).long()  # of lines whose centre lies in [low, high)
    stop = (place.amax(1) - 0.5).ceil().clamp(0, lines).long()
    count = stop - start
    which = torch.repeat_interleave(count)
    line = start[which] + torch.arange(len(which), device=points.device) - (count.cumsum(0) - count)[which]
    return view[which], edge[which], line
