"""From a scene to a mesh: threshold by silhouette, then surface, colours and size (stage 14 as a whole)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.nn.functional import grid_sample

from dreamfusion.camera.orbit import Orbit
from dreamfusion.camera.rays import cast_rays
from dreamfusion.error import UserError
from dreamfusion.mesh.bake_texture import Color, bake_texture, bake_vertex_colors
from dreamfusion.mesh.density_grid import SURFACE, EmptyFieldError
from dreamfusion.mesh.isosurface import extract_mesh
from dreamfusion.mesh.simplify import is_watertight
from dreamfusion.mesh.threshold import find_threshold, max_density_per_ray
from dreamfusion.mesh.visual_hull import Density, intersect_visual_hull, lowered
from dreamfusion.scene.base import Scene
from dreamfusion.scene.nerf.scene import NeRF
from dreamfusion.scene.picture import render_picture
from dreamfusion.scene.shading import LAMBERTIAN
from dreamfusion.types import Cameras, FieldOutput, Mesh

VIEWS, SIZE = 16, 128  # held-out cameras for the silhouette: how many, pixels a side
ELEVATIONS = (0.0, 25.0)  # degrees, of every other camera

DEPTHS, OUTSIDE = 6, 0.25  # samples of a colour; the share of its depth that lies before the surface


@dataclass(frozen=True, eq=False)
class Fit:
    """The threshold whose silhouette agrees best with the renders, and these."""

    threshold: float  # density, per scene unit
    iou: float
    lowered: float  # the threshold that goes with the visual hull
    cameras: Cameras
    opacity: Tensor  # (B, 1, SIZE, SIZE)


@dataclass(frozen=True, eq=False)
class Surface:
    """A mesh and how it was found."""

    mesh: Mesh  # scene units, y up, the front towards +z
    threshold: float | None  # density, per scene unit; None for a scene that is a surface already
    iou: float | None  # of its silhouette with the rendered one; None for a threshold that was given
    watertight: bool  # before its vertices were doubled at the seams of the texture


def extract_surface(scene: Scene, orbit: Orbit, export: DictConfig) -> Surface:
    """The scene's mesh as the export group configures it.

    Raises:
        EmptyFieldError: the scene shows nothing, or nothing but fog; says the opacity that was seen.
        UserError: a scene that has neither a surface nor a density.
    """
    own = scene.surface()
    if own is not None:
        return Surface(own, None, None, is_watertight(own.vertices, own.faces))
    if not isinstance(scene, NeRF):
        raise UserError(f"{type(scene).__name__} has no surface() and is no NeRF, whose density has one")
    fit = None if export.threshold != "auto" else fit_threshold(scene, orbit)
    threshold = float(export.threshold) if fit is None else fit.threshold
    density: Density = scene.field.density
    if fit is not None and export.visual_hull:
        threshold = fit.lowered
        density = intersect_visual_hull(density, threshold, fit.cameras, fit.opacity)
    try:
        mesh = extract_mesh(
            density,
            scene.field.radius,
            export.resolution,
            threshold,
            chunk=export.chunk,
            min_piece=export.min_piece,
            smoothing=export.smoothing,
            faces=export.faces,
            blur=export.blur,
            level=(lambda occupancy: SURFACE) if fit is None or export.blur == 0 else partial(fit_level, scene, fit),
        )
    except EmptyFieldError as error:
        cameras = cameras_around(orbit)
        seen = np.stack([render_picture(scene, cameras.one(view)).opacity for view in range(len(cameras))])
        raise EmptyFieldError(f"{error}; the opacity of the renders is {seen.min():.3g} to {seen.max():.3g}") from error
    watertight = is_watertight(mesh.vertices, mesh.faces)
    color, chunk = surface_color(scene, orbit, export.color_depth, export.lit), -(-export.chunk // DEPTHS)
    if export.texture > 0:
        mesh = bake_texture(mesh, color, export.texture, chunk)
    else:
        mesh = bake_vertex_colors(mesh, color, chunk)
    return Surface(mesh, threshold, None if fit is None else fit.iou, watertight)


def surface_color(scene: NeRF, orbit: Orbit, depth: float, lit: bool) -> Color:
    """The scene's colour at a surface: its albedo composited along the normal as a ray from outside sees it (Poole et
    al. 2022, Eq. 5), down to `depth` scene units; with `lit` in the light of a preview (Eq. 7) from the front, above
    the right shoulder.

    One point would tell of an albedo that no render ever showed alone.
    """
    light = orbit.view(torch.zeros(1), 15.0, 1, 1).light
    step = (1 + OUTSIDE) * depth / DEPTHS
    below = (torch.arange(DEPTHS) + 0.5) * step - OUTSIDE * depth

    def color(positions: Tensor, normals: Tensor) -> Tensor:
        points = positions[:, None] - below[:, None] * normals[:, None]
        out = scene.field(points.view(-1, 3))
        optical = out.density.view(-1, DEPTHS) * step
        passed = torch.exp(-(optical.cumsum(1) - optical))
        # The bound gives a place where there is nothing the plain mean.
        weight = passed * (1 - torch.exp(-optical)) + 1e-6
        albedo = (weight[..., None] * out.albedo.view(-1, DEPTHS, 3)).sum(1) / weight.sum(1, keepdim=True)
        if not lit:
            return albedo
        return LAMBERTIAN(FieldOutput(weight.sum(1), albedo, normals), positions, light.expand_as(positions))

    return color


@torch.no_grad()
def fit_threshold(scene: NeRF, orbit: Orbit) -> Fit:
    """The threshold, and what was rendered for it."""
    cameras = cameras_around(orbit)
    densities, opacities = [], []
    for view in range(len(cameras)):  # one at a time: memory
        out = scene.render(cameras.one(view))
        density = scene.field.density(out.samples.positions)
        densities.append(max_density_per_ray(out.samples.ray, density, len(out.directions)))
        opacities.append(out.opacity)
    density, opacity = torch.cat(densities), torch.cat(opacities)
    fit = find_threshold(density, opacity.reshape(-1))
    return Fit(fit.threshold, fit.iou, lowered(fit.threshold, density, opacity.reshape(-1)), cameras, opacity)


def fit_level(scene: NeRF, fit: Fit, occupancy: np.ndarray) -> float:
    """The occupancy of a blurred grid, of the scene's whole box, whose surface has the silhouette of the renders: a
    blurred edge has lost a part of its height.
    """
    grid, largest = torch.from_numpy(occupancy)[None, None], []
    for view in range(len(fit.cameras)):
        rays = cast_rays(fit.cameras.one(view))
        samples = scene.renderer.sample(rays, None)
        place = (samples.positions / scene.field.radius).flip(-1)  # grid_sample counts the axes from the last
        value = grid_sample(grid, place[None, None, None], align_corners=True).flatten()
        largest.append(max_density_per_ray(samples.ray, value, len(rays)))
    return find_threshold(torch.cat(largest), fit.opacity.reshape(-1)).threshold


def cameras_around(orbit: Orbit) -> Cameras:
    """Between the previews' cameras in azimuth and elevation."""
    azimuth = (torch.arange(VIEWS) + 0.5) * (360 / VIEWS)
    elevation = torch.tensor(ELEVATIONS).repeat(VIEWS // len(ELEVATIONS))
    return orbit.view(azimuth, elevation, SIZE, SIZE)


def placed(mesh: Mesh, size: float | None, up: str) -> Mesh:
    """The mesh as a file has it: its longest side `size` long (None: as in the scene), and y or z up.

    With z up the front looks to -y, as Blender and slicers have it.
    """
    vertices, normals = mesh.vertices, mesh.normals
    if size is not None:
        vertices = (vertices * (size / longest_side(mesh))).astype(np.float32)
    if up == "z":
        turn = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], np.float32)  # (x, y, z) -> (x, -z, y)
        vertices, normals = vertices @ turn.T, None if normals is None else normals @ turn.T
    return replace(mesh, vertices=vertices, normals=normals)


def longest_side(mesh: Mesh) -> float:
    """Of the box around the mesh, along its axes."""
    return float((mesh.vertices.max(0) - mesh.vertices.min(0)).max())
