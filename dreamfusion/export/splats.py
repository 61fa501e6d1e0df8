"""Write Gaussians for splat viewers: as .ply in the layout of Kerbl et al. 2023, and as .splat.

Viewers assume the axes of COLMAP, y down and z away from the viewer: the scene is turned by 180 degrees about x.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch

from dreamfusion.error import UserError
from dreamfusion.export.comments import ply_comments
from dreamfusion.files import replacing
from dreamfusion.scene.base import Scene
from dreamfusion.types import Gaussians

# Of the spherical harmonics in a .ply: colour = 0.5 + C0 f_dc + C1 (-y, z, -x) . f_rest for the direction (x, y, z).
C0, C1 = 0.28209479177387814, 0.4886025119029199
SURE = 1e-6  # distance of an opacity from 0 and 1, whose logit is infinite
PLACE = ("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2")
REST = tuple(f"f_rest_{index}" for index in range(9))  # three of red, of green, of blue
FORM = ("opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3")


def splats_of(scene: Scene) -> Gaussians:
    """The Gaussians of a scene.

    Raises:
        UserError: it has none.
    """
    found = scene.gaussians()
    if found is None:
        raise UserError(
            f"export=splat needs Gaussians, and this scene is a {type(scene).__name__}; type export=glb, or "
            "train one with scene=gaussians"
        )
    return found


def write_ply(gaussians: Gaussians, path: Path, metadata: Mapping[str, str]) -> None:
    """Binary little-endian .ply: colours as spherical harmonics, logits of opacities, logarithms of scales."""
    gaussians = _visible(gaussians)
    means, rotations = _turned(gaussians)
    opacity = gaussians.opacities.clamp(SURE, 1 - SURE).logit()[:, None]
    colors, scales = (gaussians.colors - 0.5) / C0, gaussians.scales.log()
    rest = [] if gaussians.directional is None else [_degree_one(gaussians.directional)]
    rows = torch.cat([means, torch.zeros_like(means), colors, *rest, opacity, scales, rotations], dim=1)
    names = (*PLACE, *(REST if rest else ()), *FORM)
    header = [b"ply", b"format binary_little_endian 1.0", *ply_comments(metadata)]
    header += [f"element vertex {len(rows)}".encode(), *(f"property float {name}".encode() for name in names)]
    with replacing(path) as draft:
        draft.write_bytes(b"\n".join([*header, b"end_header\n"]) + rows.cpu().numpy().astype("<f4").tobytes())


def write_splat(gaussians: Gaussians, path: Path) -> None:
    """See `splat_bytes`: the format has no colours that change with the direction, and gets their means."""
    with replacing(path) as draft:
        draft.write_bytes(splat_bytes(gaussians))


def splat_bytes(gaussians: Gaussians) -> bytes:
    """A .splat: 32 bytes a Gaussian, the most visible first: place, scales as float32, colour, rotation as bytes."""
    gaussians = _visible(gaussians)
    means, rotations = _turned(gaussians)
    order = (gaussians.scales.prod(1) * gaussians.opacities).argsort(descending=True, stable=True)
    floats = torch.cat([means, gaussians.scales], dim=1)[order].cpu().numpy().astype("<f4")
    tint = torch.cat([gaussians.colors, gaussians.opacities[:, None]], dim=1) * 255
    small = torch.cat([tint, rotations * 128 + 128], dim=1)[order].round().clamp(0, 255).byte().cpu().numpy()
    return np.concatenate([floats.view(np.uint8), small], axis=1).tobytes()


def _visible(gaussians: Gaussians) -> Gaussians:
    seen = gaussians.opacities > 0
    values = ((field.name, getattr(gaussians, field.name)) for field in fields(gaussians))
    return replace(gaussians, **{name: value[seen] for name, value in values if value is not None})


def _degree_one(directional: torch.Tensor) -> torch.Tensor:
    """f_rest (N, 9) of vectors (N, 3, 3) by channel, which turn with the Gaussians: y and z change their sign."""
    x, y, z = directional.unbind(-1)
    return (torch.stack([y, -z, -x], dim=-1) / C1).flatten(1)


def _turned(gaussians: Gaussians) -> tuple[torch.Tensor, torch.Tensor]:
    """Means and unit quaternions of the Gaussians, turned by 180 degrees about x: the quaternion (0, 1, 0, 0)."""
    w, x, y, z = torch.nn.functional.normalize(gaussians.rotations, dim=-1).unbind(-1)
    return gaussians.means * gaussians.means.new_tensor([1.0, -1.0, -1.0]), torch.stack([-x, w, -z, y], dim=-1)
