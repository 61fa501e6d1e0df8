"""Proxy renders of several objects in one scene.

Each object is rendered and painted by itself, in the part of the image where it is and with its own text; the images
are composited front to back, ray by ray, in the order of their mean depths. Letters: G objects, B images, F features;
N voxels a side, R rays and r pixels a side.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dreamfusion.camera.orbit import FOV
from dreamfusion.pocket.model.layers import front_to_back
from dreamfusion.pocket.model.proxy_render import FeatureVolume, ProxyRender
from dreamfusion.pocket.model.rays import HALF_EXTENT, Window, camera_axes

EMPTY = 0.02  # opacity of a ray below which nothing stands on it, whatever its depth
LARGE = 0.75  # scale of an object from which on an image of the smaller size needs no more rays for it
NEAREST = 2.7  # scene units, distance of the nearest cameras of the training data
RADIUS = 1.05  # of an object of scale 1, scene units
MARGIN = 2  # rays around an object that are painted with it


def render_together(
    volume: FeatureVolume,
    decoded: Tensor,
    text: Tensor,
    camera: Tensor,
    placement: Tensor,
    sizes: Sequence[tuple[float, float]],
    zoom: int = 1,
) -> ProxyRender:
    """B proxy renders of G objects.

    The image layers know objects that fill the image. At `zoom` 2 an object of half the size has as many pixels as in
    training at zoom 1 and is painted so; sizes between are blended. At zoom 1 small objects are seen with twice the
    rays a side, and the image is averaged.

    Args:
        volume: the decoder.
        decoded: (G, N, N, N, C), what it decodes at this zoom.
        text: sentence vectors (G, D).
        camera: camera features (B, 12).
        placement: centre and scale of each object, (G, 4), scene units.
        sizes: distance from the origin and scale of each object: known without waiting for the device.
        zoom: as in `FeatureVolume.forward`.
    """
    fine = max(zoom, 2)
    layers = []
    for one, (away, scale) in enumerate(sizes):
        own = fine if scale < LARGE else zoom
        place = placement[one].to(camera).expand(len(camera), 4)
        layer = _layer(volume, decoded[one : one + 1], text[one : one + 1], camera, place, away, scale, own)
        layers.append([_repeated(part, fine // own) for part in layer])
    depth, opacity, images, features = (torch.stack(parts) for parts in zip(*layers, strict=True))
    image, felt = front_to_back(depth.argsort(dim=0), opacity, images, features)
    proxy = ProxyRender(image[:, :4], image[:, 4:], felt)
    return proxy.halved() if zoom < fine else proxy


class _Layer(NamedTuple):
    """One object in B images."""

    depth: Tensor  # (B, 1, R, R), along the view, the same for all objects up to a constant of the image
    opacity: Tensor  # (B, 1, R, R)
    images: Tensor  # (B, 7, r, r), opacity in channel 3
    features: Tensor  # (B, F, R, R)


def _layer(
    volume: FeatureVolume,
    decoded: Tensor,
    text: Tensor,
    camera: Tensor,
    place: Tensor,
    away: float,
    scale: float,
    zoom: int,
) -> _Layer:
    rays, texts = zoom * volume.rays, text.expand(len(camera), -1)
    window = _window(camera, place, away, scale, rays)
    seen = volume.seen(decoded, camera, zoom, place, window)
    share = min(max((zoom * scale - 1) / (zoom - 1), 0), 1) if zoom > 1 else 0
    painted = volume.painted(seen, texts, camera, 1 if share < 1 else zoom)
    if 0 < share < 1:
        painted = painted.blended(volume.painted(seen, texts, camera, zoom), share)
    towards = (camera_axes(camera)[2] * place[:, :3]).sum(dim=1)[:, None, None, None]
    depth = (seen[:, 1:2] - 0.5) * scale - towards / (2 * HALF_EXTENT)
    depth = torch.where(seen[:, :1] > EMPTY, depth, torch.inf)
    images = torch.cat([painted.rgba, painted.normal], dim=1)
    if window is None:
        return _Layer(depth, seen[:, :1], images, painted.features)
    nothing = torch.zeros((), device=seen.device, dtype=seen.dtype)
    return _Layer(
        _pasted(depth, window, rays, nothing + torch.inf),
        _pasted(seen[:, :1], window, rays, nothing),
        _pasted(images, window, rays, nothing),
        _pasted(painted.features, window, rays, painted.features[:, :, :1, :1]),  # those of a ray beside it
    )


def _window(camera: Tensor, place: Tensor, away: float, scale: float, rays: int) -> Window | None:
    """The cells with an object; None if they are most of the image.

    The image layers normalise over the window, as in training over an image that the object fills. `away` is the
    distance of the object from the origin. All views have as many cells, those of the nearest camera.
    """
    tangent, radius = math.tan(math.radians(FOV / 2)), RADIUS * scale
    nearest = NEAREST - away
    if nearest <= radius:
        return None
    half = radius / math.sqrt(nearest**2 - radius**2) / tangent  # of the image's half
    side = 2 * math.ceil(half * rays / 2) + 2 * MARGIN
    if side > 0.85 * rays:
        return None
    right, up, back = camera_axes(camera)
    depth = camera[:, 8] * 0.3 + 3 - (back * place[:, :3]).sum(dim=1)
    across, down = ((axis * place[:, :3]).sum(dim=1) / (depth * tangent) for axis in (right, -up))
    first = [
        ((middle + 1) / 2 * rays - side / 2).round().clamp(0, rays - side).long()[:, None] for middle in (down, across)
    ]
    cells = torch.arange(side, device=camera.device)
    return Window(first[0] + cells, first[1] + cells)


def _pasted(part: Tensor, window: Window, rays: int, around: Tensor) -> Tensor:
    """The part of each image in `window` (B, C, h, h), pasted into whole images of `around`."""
    pixels = part.shape[-1] // window.side
    whole = around.expand(*part.shape[:2], rays * pixels, rays * pixels).clone()
    inner = torch.arange(pixels, device=part.device)
    rows, columns = ((cells[..., None] * pixels + inner).flatten(1) for cells in (window.rows, window.columns))
    batch = torch.arange(len(part), device=part.device)[:, None, None]
    whole.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]] = part.permute(0, 2, 3, 1)
    return whole


def _repeated(part: Tensor, factor: int) -> Tensor:
    """(B, C, H, W) with each cell `factor` times in both directions."""
    return part if factor == 1 else part.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
