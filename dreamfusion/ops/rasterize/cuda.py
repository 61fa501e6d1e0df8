"""`differentiable.visible` on CUDA by nvdiffrast, whose licence allows no commercial use; see LICENSE of nvdiffrast.

Written from nvdiffrast's documentation (0.3); not run on a GPU by this project.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from dreamfusion.ops.rasterize.reference import edge_functions, interpolate

__all__ = ["interpolate", "visible"]
NEAR = 0.01  # scene units; clip coordinates need a near plane


def visible(points: Tensor, faces: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """See `differentiable.visible`."""
    if len(faces) == 0:  # which nvdiffrast refuses
        seen = faces.new_full((len(points), height, width), -1)
        return seen, torch.zeros_like(seen, dtype=points.dtype)
    import nvdiffrast.torch as dr

    column, row, inverse_depth = points.unbind(-1)
    depth = 1 / inverse_depth  # negative behind the camera: clipped
    x, y = column / width * 2 - 1, row / height * 2 - 1  # its first row is at the bottom; ours is passed as that
    clip = torch.stack([x * depth, y * depth, depth - 2 * NEAR, depth], dim=-1)
    raster, _ = dr.rasterize(_context(points.device), clip.contiguous(), faces.int(), (height, width), grad_db=False)
    seen = raster[..., 3].long() - 1
    view, rows, columns = (seen >= 0).nonzero(as_tuple=True)
    screen = points[view[:, None], faces[seen[view, rows, columns]]]
    functions = edge_functions(screen, columns, rows)
    nearest = torch.zeros_like(raster[..., 0])
    nearest[view, rows, columns] = (functions * screen[..., 2]).sum(1) / functions.sum(1)
    return seen, nearest


@cache
def _context(device: torch.device) -> Any:
    import nvdiffrast.torch as dr

    return dr.RasterizeCudaContext(device)
