"""Stage 5: rays through pixel centres, and their inverse, the projection."""

import torch
from torch import Tensor

from dreamfusion.types import Cameras, RayBundle


def cast_rays(cameras: Cameras, rows: slice = slice(None)) -> RayBundle:
    """`Cameras` (B) -> `RayBundle` (R = B*H*W), view-major, rows from the top, unit directions.

    `rows` selects rows of each image; H is then their number.
    """
    h, w = cameras.height, cameras.width
    device = cameras.fov.device
    tangent = torch.tan(torch.deg2rad(cameras.fov) / 2)  # (B,) of half the vertical field of view
    y = 1 - (torch.arange(h, device=device)[rows] + 0.5) * (2 / h)  # (H,) up, in half heights
    x = ((torch.arange(w, device=device) + 0.5) * (2 / w) - 1) * (w / h)  # (W,)
    right, up, back, position = cameras.camera_to_world.unbind(-1)  # (B, 3) each
    across = tangent[:, None, None] * x[:, None] * right[:, None]  # (B, W, 3)
    ahead = tangent[:, None, None] * y[:, None] * up[:, None] - back[:, None]  # (B, H, 3)
    directions = torch.nn.functional.normalize(across[:, None] + ahead[:, :, None], dim=-1)  # (B, H, W, 3)
    origins = position[:, None, None, :].expand_as(directions)
    return RayBundle(origins.reshape(-1, 3), directions.reshape(-1, 3))


def to_screen(cameras: Cameras, points: Tensor) -> Tensor:
    """Points (B, N, 3) -> (B, N, 3): column, row, and 1 / depth along the axis, below 0 behind the camera.

    The centre of the first pixel is (0.5, 0.5).
    """
    rotation, position = cameras.camera_to_world[:, :, :3], cameras.camera_to_world[:, :, 3]
    with torch.autocast(points.device.type, enabled=False):  # bfloat16 is off by up to 4 of 512 pixels
        right, up, back = torch.einsum("bji,bnj->ibn", rotation, points - position[:, None, :])
    tangent = torch.tan(torch.deg2rad(cameras.fov) / 2)[:, None]
    inverse_depth = -1 / back
    x = right * inverse_depth / tangent * (cameras.height / cameras.width)
    y = up * inverse_depth / tangent
    return torch.stack([(x + 1) / 2 * cameras.width, (1 - y) / 2 * cameras.height, inverse_depth], dim=-1)


def project(cameras: Cameras, points: Tensor) -> Tensor:
    """Points (B, N, 3) -> pixel coordinates (B, N, 2) as (column, row); the centre of the first pixel is (0.5, 0.5)."""
    return to_screen(cameras, points)[..., :2]
