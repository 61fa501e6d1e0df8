"""Pictures in soft studio light: shaded by the normals of the depth, with occlusion and a shadow on the ground.

The albedo of a scene looks like cut paper, and the gradient of a density that was never lit is noise, so the light
falls on the surface that the depth shows, without the lumps that an export removes. The lamps turn with the camera.
"""

from itertools import product

import numpy as np
import torch
from scipy.ndimage import gaussian_filter, map_coordinates
from torch import Tensor
from torch.nn.functional import normalize, pad

from dreamfusion.camera.orbit import Orbit
from dreamfusion.camera.rays import cast_rays
from dreamfusion.image import linear_from_srgb, srgb_from_linear
from dreamfusion.scene.base import Scene
from dreamfusion.scene.picture import Picture, render_picture
from dreamfusion.types import Cameras

VISIBLE = 0.5  # opacity above which a ray hits the surface
NORMAL_BLUR, OCCLUSION_BLUR = 0.01, 0.04  # heights of the picture: standard deviations of blurs of the depth
PASSES, ALIKE = 2, 0.3  # of the filter of the normals; standard deviation of their differences: 17 degrees
FINEST = 16  # pixels a side for each doubling of the filter's widest step
LAMPS = (  # right, up and towards the camera; irradiance; share of light that wraps around the terminator
    ((-0.55, 0.75, 0.65), 0.72, 0.25),
    ((0.85, 0.15, 0.45), 0.22, 0.5),
)
SKY = 0.32  # irradiance from straight above; half as much from the side, none from below
BASE = 0.22  # irradiance from everywhere; a surface that faces the camera has 1 in all, and so its own colour
SHOULDER = 0.35  # share of the irradiance above 1 that is shown
OCCLUSION, OCCLUSION_DEPTH = 0.5, 0.15  # most that is taken away; scene units of depth at which it is
SHADOW, SHADOW_BLUR, SHADOW_HEIGHT = 0.45, 0.07, 0.35  # darkest; scene units; height, in heights, at which it fades
VIEWS, SIZE, CELLS = 8, 64, 96  # pictures that find the ground, their pixels, cells a side of its shadow
EDGE = 0.2, 0.8  # opacities between which the silhouette is drawn


class Studio:
    """The ground below one scene, and the shadow there."""

    def __init__(self, scene: Scene, orbit: Orbit) -> None:
        """Renders VIEWS + 1 small pictures of the scene, which show where the ground and its shadow are."""
        angles = torch.cat([torch.arange(VIEWS) * (360 / VIEWS), torch.zeros(1)])
        cameras = orbit.view(angles, torch.tensor([15.0, -15.0] * (VIEWS // 2) + [80.0]), SIZE, SIZE)
        parts = [_surface(cameras.one(view), render_picture(scene, cameras.one(view))) for view in range(len(cameras))]
        points = np.concatenate(parts)
        self.radius = scene.radius
        if not len(points):  # an empty scene has no shadow
            self.ground, self.shadow = -scene.radius, np.zeros((CELLS, CELLS))
            return
        self.ground, top = (float(np.quantile(points[:, 1], q)) for q in (0.002, 0.998))
        height = np.exp((self.ground - points[:, 1]) / (SHADOW_HEIGHT * max(top - self.ground, 1e-6)))
        edges = np.linspace(-2 * self.radius, 2 * self.radius, CELLS + 1)
        place = points[:, 2], points[:, 0], [edges, edges]
        near, found = np.histogram2d(*place, weights=height)[0], np.histogram2d(*place)[0]
        covered = near / np.maximum(found, 1)
        dark = gaussian_filter(covered, SHADOW_BLUR * CELLS / (4 * self.radius))
        self.shadow = SHADOW * dark / max(float(dark.max()), 1e-6)  # (CELLS, CELLS) of z, x

    def over(self, camera: Cameras, seen: Picture, behind: np.ndarray) -> np.ndarray:
        """The lit scene (H, W, 3) in front of `behind` (H, W, 3), on which its shadow falls."""
        rays = cast_rays(camera)
        along = (self.ground - rays.origins[:, 1]) / rays.directions[:, 1].clamp(max=-1e-6)
        place = (rays.origins + along[:, None] * rays.directions).view(*seen.depth.shape, 3).numpy()
        cell = [(place[..., axis] / (4 * self.radius) + 0.5) * CELLS - 0.5 for axis in (2, 0)]
        dark = map_coordinates(self.shadow, cell, order=1)
        dark[(along <= 0).numpy().reshape(dark.shape)] = 0
        low, high = EDGE
        share = ((seen.opacity - low) / (high - low)).clip(0, 1)
        share = (share * share * (3 - 2 * share))[..., None]
        return shade(camera, seen) * share + behind * (1 - dark[..., None]) * (1 - share)


def shade(camera: Cameras, seen: Picture) -> np.ndarray:
    """Colours (H, W, 3) in [0, 1] of the surface in the light of the lamps."""
    normal, visible = without_lumps(surface_normals(camera, seen)), seen.opacity > VISIBLE
    right, up, back, _ = camera.camera_to_world[0].unbind(-1)
    light = np.full(seen.depth.shape, BASE) + SKY * (0.5 + 0.5 * normal[..., 1])
    for (x, y, z), power, wrap in LAMPS:
        towards = normalize(x * right + y * up + z * back, dim=0).numpy()
        light += power * np.maximum((normal @ towards + wrap) / (1 + wrap), 0)
    light = np.minimum(light, 1) + SHOULDER * np.maximum(light - 1, 0)
    deeper = np.where(visible, seen.depth - _blurred(seen.depth, visible, OCCLUSION_BLUR * camera.height), 0)
    light *= 1 - OCCLUSION * (deeper / OCCLUSION_DEPTH).clip(0, 1)
    linear = linear_from_srgb(seen.color) * np.where(visible, light, 1.0)[..., None]
    return srgb_from_linear(linear.clip(0, 1))


def normal_picture(camera: Cameras, seen: Picture) -> np.ndarray:
    """The normals of the surface as colours (H, W, 3) over white."""
    return 1 + seen.opacity[..., None] * (surface_normals(camera, seen) - 1) / 2


def surface_normals(camera: Cameras, seen: Picture) -> np.ndarray:
    """Normals (H, W, 3) of the surface that the depth shows: unit, world axes, 0 on empty rays.

    Unlike the gradient of a density that was never lit, they are smooth: the depth is blurred by NORMAL_BLUR.
    """
    visible = seen.opacity > VISIBLE
    if min(visible.shape) < 2:  # of a minimised window: no neighbours
        return np.zeros((*visible.shape, 3), np.float32)
    points = _points(camera, _blurred(seen.depth, visible, NORMAL_BLUR * camera.height)).numpy()
    down, right = np.gradient(points, axis=(0, 1))
    normal = np.cross(down, right)
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    return np.where(visible[..., None], normal / np.maximum(length, 1e-12), 0).astype(np.float32)


def without_lumps(normal: np.ndarray) -> np.ndarray:
    """Unit normals (H, W, 3), or 0, averaged with those around that are like them: edges stay.

    Bilateral, with steps of 1, 2, 4, ... pixels between the 3 x 3 that are averaged (Dammertz et al. 2010,
    "Edge-Avoiding A-Trous Wavelet Transform"): together as wide at every size of the picture, about 0.06 scene units.
    """
    seen = torch.from_numpy(normal).permute(2, 0, 1).contiguous()
    height, width = seen.shape[1:]
    steps = [2**level for level in range(max(round(np.log2(height / FINEST)), 1))]
    for step in steps * PASSES:
        wide, total = pad(seen, [step] * 4), torch.zeros_like(seen)
        for down, right in product(range(3), repeat=2):
            near = wide[:, down * step : down * step + height, right * step : right * step + width]
            share = ((seen * near).sum(0) - 1).div_(ALIKE**2).exp_()
            total.addcmul_(near, share, value=0.5 ** (abs(down - 1) + abs(right - 1)))
        seen = total * total.square().sum(0).clamp_(min=1e-24).rsqrt_()  # normalize() takes ten times as long
    return np.where(normal.any(-1, keepdims=True), seen.permute(1, 2, 0).numpy(), 0)


def _blurred(depth: np.ndarray, visible: np.ndarray, sigma: float) -> np.ndarray:
    """The depth (H, W), blurred within the silhouette."""
    blurred, share = (gaussian_filter(image, sigma) for image in (depth * visible, 1.0 * visible))
    return blurred / np.maximum(share, 1e-6)


def _points(camera: Cameras, depth: np.ndarray) -> Tensor:
    """World positions (H, W, 3) at depths (H, W) along the rays."""
    rays = cast_rays(camera)
    return (rays.origins + rays.directions * torch.from_numpy(depth).float().view(-1, 1)).view(*depth.shape, 3)


def _surface(camera: Cameras, seen: Picture) -> np.ndarray:
    """The points (N, 3) of the surface that a picture shows."""
    return _points(camera, seen.depth).numpy()[seen.opacity > VISIBLE]
