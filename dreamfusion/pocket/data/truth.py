"""Make the laboratory's ground truth from the model libraries (`mode=truth`): a closed textured mesh of each name.

The models are soups of open sheets, with hidden insides. Depth images from all directions carve the space that is seen
to be free; what is left is one solid, whose surface is coloured by the same images. Letters: V views, N points.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample, max_pool2d

from dreamfusion.camera.orbit import look_from
from dreamfusion.export.settings import ExportSettings
from dreamfusion.mesh.bake_texture import bake_texture
from dreamfusion.mesh.isosurface import extract_mesh
from dreamfusion.ops.rasterize import RasterMesh, as_raster, rasterize
from dreamfusion.pocket.data.assets import load_asset
from dreamfusion.pocket.data.catalog import Item
from dreamfusion.pocket.data.renders import RenderSet, render_cameras
from dreamfusion.truth.store import AZIMUTHS, DISTANCE, ELEVATION, write_truth
from dreamfusion.types import Cameras, Mesh

VIEWS, SIZE = 48, 384  # directions, evenly over the sphere; pixels a side
AWAY, FOV = 3.2, 40.0  # scene units, degrees
RADIUS = 1.06  # of the carved ball: the model's farthest vertex is at 1
SKINS = (0.003, 0.008)  # scene units outside a surface that still belong to the solid: half of a sheet's thickness
ENOUGH = 0.95  # silhouette IoU with the reference views, below which the next skin is tried
SOFT = 0.015  # scene units over which occupancy falls, so that the extraction finds thin parts
RESOLUTION = 64  # pixels a side of the reference views, as the training renders
BEHIND = 0.02  # scene units behind the seen surface from which a point takes no colour


@dataclass(frozen=True, eq=False)
class Shell:
    """V depth and albedo images of a model from all directions."""

    cameras: Cameras
    depth: Tensor  # (V, 1, SIZE, SIZE) along the ray, infinite beside the model
    albedo: Tensor  # (V, 3, SIZE, SIZE)

    @classmethod
    def of(cls, model: RasterMesh) -> "Shell":
        """Render the model."""
        cameras = _all_around()
        seen = rasterize(model, cameras, supersample=1)
        depth = np.where(seen.alpha > 0, seen.depth, np.inf).astype(np.float32)
        # The nearest depth of 3 x 3 pixels: a thin part lies between the samples of some view, which would carve it.
        near = -max_pool2d(-torch.from_numpy(depth)[:, None], 3, stride=1, padding=1)
        return cls(cameras, near, torch.from_numpy(seen.albedo).permute(0, 3, 1, 2))

    def clearance(self, points: Tensor) -> Tensor:
        """How far in front of the surface each point (N, 3) is seen, at most 4 SOFT; negative: only behind it, (N,)."""
        most = points.new_full((len(points),), -4 * SOFT)
        for view in range(len(self.cameras)):
            place, distance = self._project(view, points)
            depth = _sampled(self.depth[view], place, "nearest")[:, 0]
            most = torch.maximum(most, depth - distance)
        return most.clamp(max=4 * SOFT)

    def density(self, points: Tensor, skin: float) -> Tensor:
        """A density that is 1 at `skin` outside of the surface, (N,)."""
        return torch.exp((skin - self.clearance(points)) / SOFT)

    def color(self, points: Tensor, normals: Tensor) -> Tensor:
        """Mean albedo over the views that see a point from its front, weighted by the squared cosine, (N, 3)."""
        total, weights = points.new_zeros(len(points), 3), points.new_full((len(points), 1), 1e-9)
        for view in range(len(self.cameras)):
            place, distance = self._project(view, points)
            depth = _sampled(self.depth[view], place, "nearest")[:, 0]
            towards = torch.nn.functional.normalize(self.cameras.camera_to_world[view, :, 3] - points, dim=-1)
            facing = (towards * normals).sum(1).clamp(min=0.02).square()
            seen = depth.isfinite() & (depth - distance > -BEHIND)
            weight = torch.where(seen, facing, 1e-7)[:, None]
            total += weight * _sampled(self.albedo[view], place, "bilinear")
            weights += weight
        return total / weights

    def _project(self, view: int, points: Tensor) -> tuple[Tensor, Tensor]:
        """Place in the image in [-1, 1] (N, 2), and distance from the camera (N,)."""
        pose = self.cameras.camera_to_world[view]
        local = (points - pose[:, 3]) @ pose[:, :3]
        scale = 1 / (local[:, 2:] * -np.tan(np.radians(FOV / 2)))
        return local[:, :2] * scale * local.new_tensor([1.0, -1.0]), local.norm(dim=1)


def make_truth(
    task: tuple[str, Item, int | None], export: ExportSettings, folder: Path, renders: Path | None
) -> dict[str, float | int | None]:
    """Write the file of a (name, item, index among the renders); returns its figures. Runs in a worker process.

    PSNR in dB over white and silhouette IoU compare the mesh with the reference views, and with all training renders.
    """
    torch.set_num_threads(1)
    name, item, rendered = task
    model = load_asset(item)
    turn = np.arange(AZIMUTHS) * (360.0 / AZIMUTHS)
    cameras = render_cameras(turn, np.full_like(turn, ELEVATION), np.full_like(turn, DISTANCE), RESOLUTION)
    seen = rasterize(model, cameras)
    views = np.rint(np.concatenate([seen.albedo, seen.alpha[..., None]], axis=3) * 255).astype(np.uint8)
    iou, psnr, mesh = -1.0, 0.0, None
    for skin in SKINS:
        solid = solid_mesh(model, export, skin)
        found = _agreement(solid, cameras, views)
        if found[1] > iou:
            (psnr, iou), mesh = found, solid
        if iou >= ENOUGH:
            break
    assert mesh is not None
    size = write_truth(name, mesh, views, folder)
    figures: dict[str, float | int | None] = {"triangles": len(mesh.faces), "bytes": size, "psnr": psnr, "iou": iou}
    if renders is not None and rendered is not None:
        psnr, iou = _agreement(mesh, *_training_views(RenderSet.load(renders), rendered))
        figures |= {"renders_psnr": psnr, "renders_iou": iou}
    return figures


def _agreement(mesh: Mesh, cameras: Cameras, views: np.ndarray) -> tuple[float, float]:
    """PSNR in dB over white, and IoU of the silhouettes, of a mesh with views (B, r, r, 4) uint8."""
    drawn, real = rasterize(as_raster(mesh), cameras), views.astype(np.float32) / 255
    pairs = ((drawn.albedo, drawn.alpha[..., None]), (real[..., :3], real[..., 3:]))
    one, other = (color * alpha + 1 - alpha for color, alpha in pairs)
    both = [drawn.alpha > 0.5, real[..., 3] > 0.5]
    iou = (both[0] & both[1]).sum() / max((both[0] | both[1]).sum(), 1)
    return round(float(-10 * np.log10(np.square(one - other).mean())), 2), round(float(iou), 4)


def _training_views(renders: RenderSet, model: int) -> tuple[Cameras, np.ndarray]:
    """The training renders of a model and their cameras."""
    azimuth, elevation, distance = (
        np.asarray(angle[model], np.float64) for angle in (renders.azimuth, renders.elevation, renders.distance)
    )
    views = np.concatenate([renders.albedo[model], renders.alpha[model][..., None]], axis=3)
    return render_cameras(azimuth, elevation, distance, views.shape[1]), views


def solid_mesh(model: RasterMesh, export: ExportSettings, skin: float) -> Mesh:
    """The solid of a model as a closed mesh with a texture; the settings are those of the export group."""
    shell = Shell.of(model)
    mesh = extract_mesh(partial(shell.density, skin=skin), RADIUS, 1.0, export)
    return bake_texture(mesh, shell.color, export.texture, export.chunk)


def _sampled(image: Tensor, place: Tensor, mode: str) -> Tensor:
    """Values (N, C) of an image (C, H, W) at places (N, 2) in [-1, 1]."""
    return grid_sample(image[None], place[None, None], mode=mode, align_corners=False, padding_mode="border")[0, :, 0].T


def _all_around() -> Cameras:
    """VIEWS cameras on a Fibonacci lattice of the sphere."""
    index = torch.arange(VIEWS, dtype=torch.float64) + 0.5
    height, turn = 1 - 2 * index / VIEWS, index * np.pi * (3 - 5**0.5)
    flat = (1 - height**2).sqrt()
    position = (AWAY * torch.stack([flat * turn.sin(), height, flat * turn.cos()], dim=1)).float()
    up = torch.tensor([0.0, 1.0, 0.0]).expand(VIEWS, 3)
    fov = torch.full((VIEWS,), FOV)
    return look_from(position, torch.zeros_like(position), up, fov, position, SIZE, SIZE)
