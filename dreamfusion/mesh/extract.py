"""Extract a mesh from a scene: density threshold by silhouette, isosurface, colours and size (stage 14)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from dreamfusion.camera.orbit import Orbit
from dreamfusion.camera.rays import cast_rays
from dreamfusion.error import UserError
from dreamfusion.export.settings import ExportSettings
from dreamfusion.mesh.bake_texture import Color, bake_texture, bake_vertex_colors
from dreamfusion.mesh.density_grid import SURFACE, EmptyFieldError
from dreamfusion.mesh.isosurface import decimated, extract_mesh, finish_mesh
from dreamfusion.mesh.quads import with_quads
from dreamfusion.mesh.simplify import is_watertight
from dreamfusion.mesh.threshold import find_threshold, max_density_per_ray
from dreamfusion.mesh.visual_hull import Density, intersect_visual_hull, lowered, thin_parts_solid
from dreamfusion.phases import phase
from dreamfusion.scene.base import Scene
from dreamfusion.scene.nerf.renderer import RayRender
from dreamfusion.scene.nerf.scene import NeRF
from dreamfusion.scene.picture import render_picture, render_views, strips
from dreamfusion.scene.shading import LAMBERTIAN
from dreamfusion.types import Cameras, FieldOutput, Mesh, RaySamples

VIEWS, SIZE = 16, 128  # held-out cameras for the silhouette: number, pixels a side
ELEVATIONS = (0.0, 25.0)  # degrees, alternating between cameras
SMALLEST = 16  # texels along a side of a level's texture

DEPTHS, OUTSIDE = 6, 0.25  # samples per colour; fraction of the depth that lies outside the surface


@dataclass(frozen=True, eq=False)
class Fit:
    """The threshold whose silhouette best matches the renders, and the renders."""

    threshold: float  # density, per scene unit
    iou: float
    lowered: float  # the threshold to use with the visual hull
    cameras: Cameras
    opacity: Tensor  # (B, 1, SIZE, SIZE)


@dataclass(frozen=True, eq=False)
class Surface:
    """A mesh and how it was extracted."""

    mesh: Mesh  # scene units, y up, the front towards +z
    threshold: float | None  # density, per scene unit; None for a scene that is already a surface
    iou: float | None  # of mesh and render silhouettes; None for a given threshold
    watertight: bool  # before vertices are duplicated at texture seams
    levels: tuple[Mesh, ...] = ()  # the same with fewer faces, the finest first


def extract_surface(scene: Scene, orbit: Orbit, export: ExportSettings) -> Surface:
    """Extract the scene's mesh with the settings of the export group.

    Raises:
        EmptyFieldError: the scene is empty or only fog; the message gives the rendered opacity.
        UserError: the scene has neither a surface nor a density.
    """
    own = scene.surface()
    if own is not None:
        return _finished(scene, own, orbit, export)
    with phase("mesh"):
        volume = scene.volume()
        if volume is None:
            raise UserError(f"{type(scene).__name__} has neither a surface() nor a volume() to extract one from")
        fit = None if export.threshold != "auto" else fit_threshold(scene, orbit, volume)
        threshold = float(export.threshold) if fit is None else fit.threshold
        inner: Density = volume.field.density
        if fit is not None and export.visual_hull:
            threshold = fit.lowered
            inner = intersect_visual_hull(inner, threshold, fit.cameras, thin_parts_solid(fit.opacity))

        def density(positions: Tensor) -> Tensor:  # the grid is on the CPU, the scene perhaps on a GPU
            return inner(positions.to(scene.device)).cpu()

        try:
            level = (lambda occupancy: SURFACE) if fit is None or export.blur == 0 else partial(fit_level, volume, fit)
            mesh = extract_mesh(density, volume.field.radius, threshold, export, level)
        except EmptyFieldError as error:
            cameras = cameras_around(orbit)
            seen = np.stack([render_picture(scene, cameras.one(view)).opacity for view in range(len(cameras))])
            raise EmptyFieldError(
                f"{error}; the opacity of the renders is {seen.min():.3g} to {seen.max():.3g}"
            ) from error
    mesh = with_quads(mesh, export.faces) if export.quads else mesh
    color = surface_color(volume, export.color_depth)
    painted = [_painted(scene, level, color, orbit, of_level, DEPTHS) for level, of_level in _levels(mesh, export)]
    watertight = is_watertight(mesh.vertices, mesh.faces)
    return Surface(painted[0], threshold, None if fit is None else fit.iou, watertight, tuple(painted[1:]))


def _finished(scene: Scene, mesh: Mesh, orbit: Orbit, export: ExportSettings) -> Surface:
    """The surface of a scene that has one; without colours, of the export's size and with its texture.

    Raises:
        EmptyFieldError: it has no faces.
        UserError: its own colours cannot be given to other levels of detail, or to quadrilaterals.
    """
    if len(mesh.faces) == 0:
        raise EmptyFieldError("the surface of the scene has vanished; train again with lower learning rates")
    if mesh.colors is not None:
        if export.levels or export.quads:
            raise UserError(
                f"{type(scene).__name__} has its own colours, for its own vertices; type export.levels=[] "
                "export.quads=false"
            )
        return Surface(mesh, None, None, is_watertight(mesh.vertices, mesh.faces))
    mesh = finish_mesh(mesh.vertices, mesh.faces, replace(export, denoise=0.0) if scene.given_shape else export)
    mesh = with_quads(mesh, export.faces) if export.quads else mesh

    def color(positions: Tensor, _: Tensor) -> Tensor:
        return scene.surface_albedo(positions)

    painted = [_painted(scene, level, color, orbit, of_level, 1) for level, of_level in _levels(mesh, export)]
    return Surface(painted[0], None, None, is_watertight(mesh.vertices, mesh.faces), tuple(painted[1:]))


def _levels(mesh: Mesh, export: ExportSettings) -> Iterator[tuple[Mesh, ExportSettings]]:
    """The mesh, then the same with fewer faces and half the texture each time; with the settings to paint them."""
    yield mesh, export
    for number, faces in enumerate(export.levels, 1):
        side = max(export.texture >> number, SMALLEST) if export.texture else 0
        yield decimated(mesh.vertices, mesh.faces, faces), replace(export, texture=side)


def _painted(scene: Scene, mesh: Mesh, color: Color, orbit: Orbit, export: ExportSettings, samples: int) -> Mesh:
    """The mesh with a texture or vertex colours; with `lit` shaded by one light (Poole et al. 2022, Eq. 7).

    The light is at the front, above and to the right. `samples` of the field are evaluated for each colour.
    """
    light = orbit.view(torch.zeros(1), 15.0, 1, 1).light.to(scene.device)

    def plain(positions: Tensor, normals: Tensor) -> Tensor:  # the mesh is on the CPU, the scene perhaps on a GPU
        return color(positions.to(scene.device), normals.to(scene.device))

    def lit(positions: Tensor, normals: Tensor) -> Tensor:
        positions, normals = positions.to(scene.device), normals.to(scene.device)
        albedo = color(positions, normals)
        return LAMBERTIAN(FieldOutput(albedo[:, 0], albedo, normals), positions, light.expand_as(positions))

    chosen, chunk = lit if export.lit else plain, -(-export.chunk // samples)
    with phase("texture"):
        if export.texture > 0:
            return bake_texture(mesh, chosen, export.texture, chunk)
        return bake_vertex_colors(mesh, chosen, chunk)


def surface_color(scene: NeRF, depth: float) -> Color:
    """The scene's colour at a surface: albedo composited along the inward normal (Poole et al. 2022, Eq. 5), down to
    `depth` scene units.

    The albedo at a single point is unreliable: renders constrain only the composited colour.
    """
    step = (1 + OUTSIDE) * depth / DEPTHS
    below = (torch.arange(DEPTHS, device=scene.device) + 0.5) * step - OUTSIDE * depth

    def color(positions: Tensor, normals: Tensor) -> Tensor:
        points = positions[:, None] - below[:, None] * normals[:, None]
        out = scene.field(points.view(-1, 3))
        optical = out.density.view(-1, DEPTHS) * step
        passed = torch.exp(-(optical.cumsum(1) - optical))
        # 1e-6: empty space gets the unweighted mean instead of 0 / 0.
        weight = passed * (1 - torch.exp(-optical)) + 1e-6
        return (weight[..., None] * out.albedo.view(-1, DEPTHS, 3)).sum(1) / weight.sum(1, keepdim=True)

    return color


@torch.no_grad()
def fit_threshold(scene: Scene, orbit: Orbit, volume: NeRF | None = None) -> Fit:
    """Find the threshold from renders of the scene; `volume` is that of a scene that is no NeRF."""
    cameras = cameras_around(orbit).to(scene.device)
    densities, opacities = [], []
    volume = scene.volume() if volume is None else volume
    assert volume is not None
    for samples, opacity in _seen(scene, volume, cameras):
        density = volume.field.density(samples.positions)
        densities.append(max_density_per_ray(samples.ray, density, len(opacity)))
        opacities.append(opacity)
    density, opacity = torch.cat(densities), torch.cat(opacities)
    threshold, iou = find_threshold(density, opacity)
    images = opacity.view(len(cameras), 1, SIZE, SIZE)
    return Fit(threshold, iou, lowered(threshold, density, opacity), cameras, images)


def _seen(scene: Scene, volume: NeRF, cameras: Cameras) -> Iterator[tuple[RaySamples, Tensor]]:
    """Samples of the volume along the rays of the cameras, and the opacity (R,) of the scene there, part by part."""
    if volume is scene:
        for out in strips(scene, cameras):
            assert isinstance(out, RayRender)
            yield out.samples, out.opacity.flatten()
        return
    for view in range(len(cameras)):
        camera = cameras.one(view)
        yield volume.renderer.sample(cast_rays(camera), None), render_views(scene, camera).opacity.flatten()


def fit_level(scene: NeRF, fit: Fit, occupancy: np.ndarray) -> float:
    """The level of a blurred occupancy grid whose silhouette matches the renders; blurring lowers edges."""
    grid, largest = torch.from_numpy(occupancy)[None, None].to(scene.device), []
    for view in range(len(fit.cameras)):
        rays = cast_rays(fit.cameras.one(view))
        samples = scene.renderer.sample(rays, None)
        place = (samples.positions / scene.field.radius).flip(-1)  # grid_sample orders axes from the last
        value = grid_sample(grid, place[None, None, None], align_corners=True).flatten()
        largest.append(max_density_per_ray(samples.ray, value, len(rays)))
    return find_threshold(torch.cat(largest), fit.opacity.reshape(-1))[0]


def cameras_around(orbit: Orbit) -> Cameras:
    """Held-out cameras, between the previews' cameras in azimuth and elevation."""
    azimuth = (torch.arange(VIEWS) + 0.5) * (360 / VIEWS)
    elevation = torch.tensor(ELEVATIONS).repeat(VIEWS // len(ELEVATIONS))
    return orbit.view(azimuth, elevation, SIZE, SIZE)


def placed(mesh: Mesh, size: float | None, up: str) -> Mesh:
    """The mesh scaled to a longest side of `size` (None: unscaled), with y or z up.

    With z up, the front faces -y, as in Blender and slicers.
    """
    vertices, normals = mesh.vertices, mesh.normals
    if size is not None:
        vertices = (vertices * (size / longest_side(mesh))).astype(np.float32)
    if up == "z":
        turn = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], np.float32)  # (x, y, z) -> (x, -z, y)
        vertices, normals = vertices @ turn.T, None if normals is None else normals @ turn.T
    return replace(mesh, vertices=vertices, normals=normals)


def longest_side(mesh: Mesh) -> float:
    """The longest side of the mesh's axis-aligned bounding box."""
    return float((mesh.vertices.max(0) - mesh.vertices.min(0)).max())
