"""Scores of a trained scene (`mode=evaluate`), against the laboratory's truth where the prompt names one.

The frame is shared: a truth has the size, the centre and the front that the prior was trained on, so nothing has to be
aligned; scores "aligned" say what an alignment would change. Letters: B cameras, A azimuths of a ring, r pixels a side.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from skimage.color import rgb2lab
from skimage.metrics import structural_similarity

from dreamfusion.camera.orbit import Orbit
from dreamfusion.camera.rays import project
from dreamfusion.evaluation.likeness import features
from dreamfusion.evaluation.shape import (
    POINTS,
    align,
    cell_centers,
    distances,
    f_score,
    iou,
    mesh_facts,
    occupancy,
    sample_surface,
    transformed,
)
from dreamfusion.export.settings import ExportSettings
from dreamfusion.image import contact_sheet
from dreamfusion.mesh.extract import extract_surface
from dreamfusion.mesh.metrics import compare
from dreamfusion.ops.rasterize import as_raster, rasterize
from dreamfusion.scene.background.solid import ConstantBackground
from dreamfusion.scene.base import Scene
from dreamfusion.scene.picture import render_views
from dreamfusion.truth.store import Truth
from dreamfusion.types import Cameras, Mesh

SIZE, FINER = 64, 2  # pixels a side of the compared pictures; renders have FINER times as many, averaged
HELD_OUT, HEIGHTS = 32, (0.0, 20.0, 40.0, 60.0)  # cameras, between training's in no way but by chance; elevations
AROUND, FINE = 16, 96  # azimuths and pixels a side of the cameras that decide which cells can be seen
RING, RING_ELEVATION = 24, 15.0  # azimuths around the object, for the sides; degrees
SIDE = 45.0  # degrees of azimuth that belong to the front, or to the back
DISTINCT = 1.0  # how much farther the back is from the front than from the back's next view, for a truth with a front
ALIKE = 0.03  # how much a truth's sides differ, relative to its contrast to grey, if they count as the same
VAGUE = 1.05  # turns whose error is at most this times the least one are equally good
SHOWN = 8  # cameras of the picture


@dataclass(frozen=True, eq=False)
class Evaluated:
    """Scores by name, and a picture (H, W, 3) uint8: the scene above the truth from SHOWN held-out cameras."""

    scores: dict[str, float]
    sheet: np.ndarray


def evaluate_scene(scene: Scene, orbit: Orbit, export: ExportSettings, truth: Truth | None) -> Evaluated:
    """Mesh facts, agreement of mesh and renders, and the true scores if there is a truth.

    Scores without a meaning are left out, by the truth alone, so that all scenes of a name have the same ones: the
    azimuth of what looks the same from all sides, and the rate of second faces of what has no front.

    Raises:
        EmptyFieldError: the scene has no surface.
    """
    surface = extract_surface(scene, orbit, replace(export, texture=0, levels=(), quads=False))
    match = compare(scene, orbit, surface.mesh)
    scores = {"watertight": float(surface.watertight), **mesh_facts(surface.mesh)}
    scores |= {"silhouette_iou": match.iou, "color_difference": match.color_difference}
    cameras, ring = held_out_cameras(orbit), ring_cameras(orbit)
    seen = scene_pictures(scene, cameras)
    shown = [seen[:: HELD_OUT // SHOWN]]
    if truth is not None:
        scores |= shape_scores(surface.mesh, truth.mesh, training_views(orbit))
        real = mesh_pictures(truth.mesh, cameras)
        scores["normal_error"] = normal_error(surface.mesh, truth.mesh, cameras)
        scores |= picture_scores(seen, real)
        scores |= side_scores(scene_pictures(scene, ring), mesh_pictures(truth.mesh, ring))
        shown.append(real[:: HELD_OUT // SHOWN])
    sheet = np.rint(over(np.concatenate(shown), 1.0) * 255).astype(np.uint8)
    return Evaluated({name: float(f"{value:.6g}") for name, value in scores.items()}, contact_sheet(list(sheet), SHOWN))


def held_out_cameras(orbit: Orbit) -> Cameras:
    """HELD_OUT cameras evenly around the object, at HEIGHTS in turn."""
    azimuth = (torch.arange(HELD_OUT) + 0.5) * (360 / HELD_OUT)
    return orbit.view(azimuth, torch.tensor(HEIGHTS).repeat(HELD_OUT // len(HEIGHTS)), SIZE, SIZE)


def training_views(orbit: Orbit) -> Cameras:
    """AROUND cameras at the lowest, middle and highest elevation of the training's, and at two between these."""
    heights = torch.linspace(orbit.elevation[0], orbit.elevation[1], 5)
    azimuth = torch.arange(AROUND * len(heights)) * (360 / AROUND + 360 / AROUND / AROUND / len(heights))
    return orbit.view(azimuth, heights.repeat_interleave(AROUND), FINE, FINE)


def ring_cameras(orbit: Orbit) -> Cameras:
    """RING cameras around the object, the front first."""
    return orbit.view(torch.arange(RING) * (360 / RING), RING_ELEVATION, SIZE, SIZE)


def scene_pictures(scene: Scene, cameras: Cameras) -> np.ndarray:
    """Albedo and opacity (B, r, r, 4) of the scene: as the rasteriser's, means over the area of a pixel."""
    finer = cameras.resized(FINER * cameras.height, FINER * cameras.width)
    out = render_views(scene, finer, background=ConstantBackground([0.0, 0.0, 0.0]))
    pixels = torch.nn.functional.avg_pool2d(torch.cat([out.rgb, out.opacity], dim=1), FINER)
    pixels[:, :3] /= pixels[:, 3:].clamp(min=1e-6)
    return pixels.permute(0, 2, 3, 1).clamp(0, 1).cpu().numpy()


def mesh_pictures(mesh: Mesh, cameras: Cameras) -> np.ndarray:
    """Albedo and opacity (B, r, r, 4) of a mesh."""
    drawn = rasterize(as_raster(mesh), cameras)
    return np.concatenate([drawn.albedo, drawn.alpha[..., None]], axis=3)


def over(pictures: np.ndarray, grey: float) -> np.ndarray:
    """(B, r, r, 4) over a grey background: (B, r, r, 3)."""
    return np.asarray(pictures[..., :3] * pictures[..., 3:] + grey * (1 - pictures[..., 3:]))


def shape_scores(mesh: Mesh, truth: Mesh, cameras: Cameras) -> dict[str, float]:
    """Volumes and distances of a mesh and the truth; thresholds are shares of the truth's longest side.

    volume_iou_seen leaves out what the cameras cannot see: whether a traffic cone is hollow, seen from above.
    """
    filled, real = (occupancy(shape.vertices, shape.faces) for shape in (mesh, truth))
    decided = ~unseen(truth, real, cameras)
    moved = transformed(mesh, align(mesh, truth))
    aligned = iou(occupancy(moved.vertices, moved.faces), real)
    side = float((truth.vertices.max(0) - truth.vertices.min(0)).max())
    there, back = distances(sample_surface(mesh, POINTS), sample_surface(truth, POINTS, seed=1))
    direct = iou(filled, real)
    return {
        "volume_iou": direct,
        "volume_iou_seen": iou(filled & decided, real & decided),
        "volume_iou_aligned": max(aligned, direct),  # the identity is a similarity too
        "fscore_1": f_score(there, back, 0.01 * side),
        "fscore_2": f_score(there, back, 0.02 * side),
        "chamfer": float(there.mean() + back.mean()) / 2,
    }


def unseen(mesh: Mesh, solid: np.ndarray, cameras: Cameras) -> np.ndarray:
    """The cells (G, G, G) outside of a mesh, of those of its box, that no camera sees; `solid` is its occupancy."""
    drawn, centers = rasterize(as_raster(mesh), cameras, supersample=1), cell_centers()
    within = ((centers >= mesh.vertices.min(axis=0)) & (centers <= mesh.vertices.max(axis=0))).all(axis=-1)
    hidden = np.flatnonzero(within & ~solid)
    points = torch.from_numpy(centers.reshape(-1, 3)).float()
    for view in range(len(cameras)):
        here = points[hidden]
        place = project(cameras.one(view), here[None])[0].long().clamp(0, cameras.width - 1).numpy()
        at = view, place[:, 1], place[:, 0]
        distance = (here - cameras.camera_to_world[view, :, 3]).norm(dim=1).numpy()
        hidden = hidden[(drawn.alpha[at] > 0) & (distance >= drawn.depth[at])]
    return np.asarray(np.isin(np.arange(solid.size), hidden).reshape(solid.shape))


def normal_error(mesh: Mesh, truth: Mesh, cameras: Cameras) -> float:
    """Mean angle in degrees between the normals of two surfaces, over the pixels in which both are seen; else 180."""
    one, other = (rasterize(as_raster(each), cameras) for each in (mesh, truth))
    both = (one.alpha > 0.5) & (other.alpha > 0.5)
    cosine = (one.normal[both] * other.normal[both]).sum(-1).clip(-1, 1)
    return float(np.degrees(np.arccos(cosine)).mean()) if len(cosine) else 180.0


def picture_scores(seen: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """Silhouettes, and colours over white, of pictures (B, r, r, 4) of the scene and the truth."""
    one, other = over(seen, 1.0), over(real, 1.0)
    inside = [pictures[..., 3] > 0.5 for pictures in (seen, real)]
    both = inside[0] & inside[1]
    color = np.linalg.norm(rgb2lab(seen[..., :3][both]) - rgb2lab(real[..., :3][both]), axis=-1)
    similar = [structural_similarity(a, b, channel_axis=-1, data_range=1.0) for a, b in zip(one, other, strict=True)]
    return {
        "truth_silhouette_iou": iou(*inside),
        "truth_psnr": float(-10 * np.log10(max(np.square(one - other).mean(), 1e-10))),
        "truth_ssim": float(np.mean(similar)),
        "truth_color_error": float(color.mean()) if len(color) else 100.0,  # CIELAB units where both are solid
    }


def side_scores(seen: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """Which way the scene faces, from rings (A, r, r, 4) of the scene and the truth, and whether it has a second face.

    azimuth_error: the turn in degrees, in steps of the ring, that maps the scene onto the truth; of equally good turns
    the smallest. second_face_rate: the share of views of the back, after that turn, that look like a view of the front.
    """
    one, other = over(seen, 0.5), over(real, 0.5)
    steps = np.arange(RING)
    error = np.array([np.square(one - np.roll(other, -turn, axis=0)).mean() for turn in steps])
    own = np.array([np.square(other - np.roll(other, -turn, axis=0)).mean() for turn in steps])
    angle = np.minimum(steps, RING - steps) * (360 / RING)
    if own.max() <= ALIKE * np.square(other - 0.5).mean():
        return {}
    good = np.flatnonzero(error <= VAGUE * error.min())
    turn = int(good[angle[good].argmin()])
    scores = {"azimuth_error": float(angle[turn])}
    known, front, back = features(other), _sides(0.0), _sides(180.0)
    if front_back_asymmetry(known) >= DISTINCT:
        shown = features(one)[(back - turn) % RING]
        nearest = np.linalg.norm(shown[:, None] - known, axis=-1).argmin(axis=1)
        scores["second_face_rate"] = float(np.isin(nearest, front).mean())
    return scores


def front_back_asymmetry(ring: np.ndarray) -> float:
    """How much farther views of the back are from the front than from the back's other views, by features (A, D)."""
    apart = np.linalg.norm(ring[:, None] - ring, axis=-1)
    np.fill_diagonal(apart, np.inf)
    front, back = _sides(0.0), _sides(180.0)
    return float(
        np.median(apart[np.ix_(back, front)].min(axis=1) / apart[np.ix_(back, back)].min(axis=1).clip(min=1e-6))
    )


def _sides(middle: float) -> np.ndarray:
    """The ring's views within SIDE degrees of the azimuth `middle`."""
    azimuth = np.arange(RING) * (360 / RING)
    return np.flatnonzero(np.abs((azimuth - middle + 180) % 360 - 180) <= SIDE)
