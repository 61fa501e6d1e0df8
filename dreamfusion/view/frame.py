"""Render the scene from a client's camera, with the depth that the browser needs to composite meshes."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dreamfusion.camera.orbit import look_from, spherical
from dreamfusion.camera.rays import cast_rays
from dreamfusion.report.studio import shade
from dreamfusion.scene.base import Scene
from dreamfusion.scene.picture import Picture, render_background
from dreamfusion.scene.shading import ALBEDO, Shading
from dreamfusion.types import Cameras

RAYS, RAYS_OF_A_GPU = 2**13, 2**17  # rendered between two checks for a stale picture: about 0.1 s on a CPU
FAR = 160.0  # scene units; the depth of transparent pixels
FARTHEST = 1e6  # scene units; of a camera from the origin
STUDIO: Literal["studio"] = "studio"  # the lamps of `report/studio.py`, which turn with the camera
Light = Shading | Literal["studio"]


@dataclass(frozen=True)
class View:
    """A client's camera, as plain numbers that can be compared."""

    position: tuple[float, float, float]
    forward: tuple[float, float, float]  # unit
    down: tuple[float, float, float]  # unit, perpendicular to `forward`
    fov: float  # vertical, radians
    height: int  # pixels of the browser window
    width: int

    @property
    def is_drawable(self) -> bool:
        """Whether its numbers are finite and moderate; a client may send any."""
        return 0 < self.fov < math.pi and all(abs(x) < FARTHEST for x in (*self.position, *self.forward, *self.down))

    def cameras(self, longest: int) -> Cameras:
        """The camera with at most `longest` pixels along the longer side, and the previews' light, above and to the
        right of the camera."""
        shrink = min(1.0, longest / max(self.height, self.width))
        height, width = (max(1, round(side * shrink)) for side in (self.height, self.width))
        position, forward = torch.tensor([self.position]), torch.tensor([self.forward])
        fov = torch.tensor([math.degrees(self.fov)])
        seen = look_from(position, position + forward, -torch.tensor([self.down]), fov, position, height, width)
        light = spherical(seen.azimuth + 30, (seen.elevation + 35).clamp(max=89), seen.distance)
        return Cameras(seen.camera_to_world, fov, seen.azimuth, seen.elevation, seen.distance, light, height, width)


@dataclass(frozen=True, eq=False)
class Frame:
    """A picture composited over the scene's own background."""

    rgb: np.ndarray  # (H, W, 3) uint8
    depth: np.ndarray  # (H, W) float32, along the camera's axis, scene units; FAR where transparent


@torch.no_grad()
def render_frame(
    scene: Scene, camera: Cameras, light: Light, is_stale: Callable[[], bool] | None = None
) -> Frame | None:
    """Render one camera in horizontal strips; None if `is_stale` returns True between two strips.

    Draws no random numbers and leaves the scene unchanged, so that viewing does not affect training.
    """
    rays = RAYS if scene.device.type == "cpu" else RAYS_OF_A_GPU
    rows = camera.height if scene.draws_whole else max(1, rays // camera.width)
    strips: list[Tensor] = []  # (5, rows, W): colour, opacity, depth along the ray
    for top in range(0, camera.height, rows):
        if top > 0 and is_stale is not None and is_stale():
            return None
        out = scene.render(
            camera, ALBEDO if light == STUDIO else light, rows=slice(top, min(top + rows, camera.height))
        )
        strips.append(torch.cat([out.rgb[0], out.opacity[0], out.depth[0] / out.opacity[0].clamp(min=1e-6)]).cpu())
    *colors, opacity, distance = torch.cat(strips, dim=1)
    rgb, camera = torch.stack(colors, dim=-1).numpy(), camera.to("cpu")
    if light == STUDIO:
        share = opacity[..., None].numpy()
        behind = (1 - share) * render_background(scene, camera)
        own = ((rgb - behind) / np.maximum(share, 1e-6)).clip(0, 1)
        rgb = shade(camera, Picture(own, opacity.numpy(), distance.numpy(), None)) * share + behind
    along = (cast_rays(camera).directions @ -camera.camera_to_world[0, :, 2]).view_as(distance)
    depth = torch.where(opacity > 0.5, distance * along, FAR)
    return Frame(np.rint(rgb.clip(0, 1) * 255).astype(np.uint8), depth.numpy())
