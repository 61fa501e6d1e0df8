"""Bake the colours of a field into a mesh, per vertex or per texel (after `isosurface.py`).

A texture resolves details finer than the triangles. xatlas cuts the mesh into flat charts; the field is then evaluated
at the surface point of every texel sample. No renders are projected, so occluded parts get colours too, and no OpenGL
is needed.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import xatlas
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from dreamfusion.ops.rasterize import texel_faces
from dreamfusion.types import Mesh

Color = Callable[[Tensor, Tensor], Tensor]  # positions (N, 3), unit outward normals (N, 3) -> colours (N, 3) in [0, 1]
PADDING = (
    4  # texels between charts, and around all of them: bilinear lookups and the first mip levels stay inside a chart
)
SAMPLES = 2  # along each side of a texel
BAND = 2**20  # samples that are taken at once, 150 bytes each
CHARTS = 100  # fewest charts, by a limit on their area: smaller charts flatten faster and with less distortion
COST = 4.0  # of adding a triangle, above which a new chart begins (xatlas: 2); lower values take many times longer


def bake_vertex_colors(mesh: Mesh, color: Color, chunk: int) -> Mesh:
    """The mesh, which needs normals, with a colour at each vertex; evaluates at most `chunk` points at once."""
    return replace(mesh, colors=_evaluate(color, mesh.vertices, _normals(mesh), chunk))


def bake_texture(mesh: Mesh, color: Color, size: int, chunk: int) -> Mesh:
    """The mesh cut into charts, with a texture of `size` x `size` texels in place of vertex colours.

    Vertices on a seam are duplicated for each chart. A texel is the mean of its samples inside a chart; texels outside
    all charts copy the nearest covered texel, which hides the seams.

    Args:
        mesh: with normals.
        color: evaluated at about 2.5 `size`^2 points, at most `chunk` at once.
        size: texels along a side.
    """
    flat = unwrap(mesh, size)
    assert flat.uv is not None
    mean, covered = np.zeros((size, size, 3), np.float32), np.zeros((size, size), bool)
    rows = max(1, BAND // (size * SAMPLES**2))  # of texels
    for top in range(0, size, rows):
        band = slice(top, min(top + rows, size))
        mean[band], covered[band] = _baked(flat, color, size, band, chunk)
    return replace(flat, colors=None, texture=np.rint(_padded(mean, covered) * 255).astype(np.uint8))


def _baked(flat: Mesh, color: Color, size: int, band: slice, chunk: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean colours (rows, size, 3) of a band of texels, and whether a chart covers each (rows, size)."""
    assert flat.uv is not None
    texels = (band.stop - band.start) * size
    face, barycentric = texel_faces(
        flat.uv, flat.faces, size * SAMPLES, band.start * SAMPLES, (band.stop - band.start) * SAMPLES
    )
    row, column = np.nonzero(face >= 0)
    corners = flat.faces[face[row, column]]
    texel = (row // SAMPLES) * size + column // SAMPLES
    sums, count = np.zeros((texels, 3)), np.bincount(texel, minlength=texels)
    for start in range(0, len(texel), chunk):
        part = slice(start, start + chunk)
        weights = barycentric[part, :, None].astype(np.float32)
        positions = (flat.vertices[corners[part]] * weights).sum(1)
        normals = (_normals(flat)[corners[part]] * weights).sum(1)
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
        colors = _evaluate(color, positions, normals, chunk)
        for axis in range(3):
            sums[:, axis] += np.bincount(texel[part], colors[:, axis], texels)
    mean = sums / np.maximum(count, 1)[:, None]
    return mean.reshape(-1, size, 3), (count > 0).reshape(-1, size)


def unwrap(mesh: Mesh, size: int) -> Mesh:
    """The mesh with `uv`: charts in the unit square, PADDING texels apart, and from its border, at `size` texels.

    New vertices are copies of old ones, so shape and normals do not change.
    """
    a, b, c = (mesh.vertices[mesh.faces[:, i]].astype(np.float64) for i in range(3))
    area = float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)
    charts, packing = xatlas.ChartOptions(), xatlas.PackOptions()
    charts.max_cost, charts.max_chart_area = COST, area / CHARTS
    border = min(PADDING, size // 4)
    packing.resolution, packing.padding = size - 2 * border, PADDING
    atlas = xatlas.Atlas()
    atlas.add_mesh(np.ascontiguousarray(mesh.vertices, np.float32), np.ascontiguousarray(mesh.faces, np.uint32))
    atlas.generate(charts, packing)
    old, faces, uv = atlas[0]
    return replace(
        mesh,
        vertices=mesh.vertices[old],
        faces=faces.astype(np.int64),
        normals=None if mesh.normals is None else mesh.normals[old],
        colors=None if mesh.colors is None else mesh.colors[old],
        uv=((np.clip(uv, 0.0, 1.0) * (size - 2 * border) + border) / size).astype(np.float32),
    )


@torch.no_grad()
def _evaluate(color: Color, positions: np.ndarray, normals: np.ndarray, chunk: int) -> np.ndarray:
    pairs = zip(torch.from_numpy(positions).split(chunk), torch.from_numpy(normals).split(chunk), strict=True)
    colors: np.ndarray = torch.cat([color(*pair).float().cpu() for pair in pairs]).clamp(0.0, 1.0).numpy()
    return colors


def _normals(mesh: Mesh) -> np.ndarray:
    if mesh.normals is None:
        raise ValueError("the mesh has no normals; colours are sampled along them, below the surface")
    return mesh.normals


def _padded(colors: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """Colours (h, w, 3) with every uncovered texel replaced by the nearest covered one."""
    nearest = distance_transform_edt(~covered, return_distances=False, return_indices=True)
    padded: np.ndarray = colors[tuple(nearest)]
    return padded
