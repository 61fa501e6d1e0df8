"""A small z-buffer rasteriser for triangle meshes on the CPU: what the pocket prior's training views are made with,
and what an exported mesh is checked with. Numba, one thread, releases the GIL.

Every pixel is the mean of supersample^2 point samples.
Letters: B views, H W pixels, V F vertices and faces, M materials.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit

from dreamfusion.types import Cameras

_compiled = njit(nogil=True, fastmath=True, error_model="numpy", cache=True)
NEAR = 0.01  # scene units; a triangle that comes nearer than this to the camera plane is not drawn


@dataclass(frozen=True, eq=False)
class Material:
    """A surface without light: a colour, times a texture if there is one."""

    color: tuple[float, float, float] = (1.0, 1.0, 1.0)
    texture: np.ndarray | None = None  # (h, w, 4) uint8, first row at the top (v = 1); alpha below one half is a hole


@dataclass(frozen=True, eq=False)
class RasterMesh:
    """A triangle mesh with vertex colours, or with materials and texture coordinates."""

    vertices: np.ndarray  # (V, 3) scene units
    faces: np.ndarray  # (F, 3) integers
    normals: np.ndarray | None = None  # (V, 3) unit; None: the normals of the faces
    colors: np.ndarray | None = None  # (V, 3) in [0, 1], multiplied with the material
    uv: np.ndarray | None = None  # (V, 2), repeating; (0, 0) is the lower left corner of the texture
    material: np.ndarray | None = None  # (F,) index into materials; None: all faces have the first
    materials: tuple[Material, ...] = (Material(),)

    def __post_init__(self) -> None:
        v, f = len(self.vertices), len(self.faces)
        wanted = {
            "vertices": (v, 3),
            "faces": (f, 3),
            "normals": (v, 3),
            "colors": (v, 3),
            "uv": (v, 2),
            "material": (f,),
        }
        for name, shape in wanted.items():
            value = getattr(self, name)
            if value is not None and value.shape != shape:
                raise ValueError(f"RasterMesh.{name} has shape {value.shape}, expected {shape}")
        if f and not 0 <= int(self.faces.min()) <= int(self.faces.max()) < v:
            raise ValueError(f"RasterMesh.faces point outside of the {v} vertices")
        if (
            self.material is not None
            and f
            and not 0 <= self.material.min() <= self.material.max() < len(self.materials)
        ):
            raise ValueError(f"RasterMesh.material points outside of the {len(self.materials)} materials")


@dataclass(frozen=True, eq=False)
class RasterOutput:
    """B images without background: where alpha is 0, all else is 0 too."""

    albedo: np.ndarray  # (B, H, W, 3) float32 in [0, 1], mean over the covered samples
    normal: np.ndarray  # (B, H, W, 3) float32, world space, unit, on the side of the camera
    alpha: np.ndarray  # (B, H, W) float32, covered share of the pixel
    depth: np.ndarray  # (B, H, W) float32, mean distance from the camera along the ray


def rasterize(mesh: RasterMesh, cameras: Cameras, supersample: int = 4) -> RasterOutput:
    """Draw the mesh from every camera, from both sides of its faces.

    Raises:
        ValueError: supersample is not a positive whole number.
    """
    if supersample < 1:
        raise ValueError(f"supersample is {supersample}, it must be at least 1 (samples along each side of a pixel)")
    b, h, w = len(cameras), cameras.height, cameras.width
    output = RasterOutput(
        albedo=np.zeros((b, h, w, 3), np.float32),
        normal=np.zeros((b, h, w, 3), np.float32),
        alpha=np.zeros((b, h, w), np.float32),
        depth=np.zeros((b, h, w), np.float32),
    )
    surface = _pack(mesh)
    poses = cameras.camera_to_world.detach().cpu().numpy().astype(np.float64)
    fov = np.radians(cameras.fov.detach().cpu().numpy().astype(np.float64))
    focal = 0.5 * h * supersample / np.tan(0.5 * fov)  # in samples
    for view in range(b):
        x, y, inverse_depth = _project(surface.vertices, poses[view], focal[view], h * supersample, w * supersample)
        nearest, face = _visible(x, y, inverse_depth, surface, h * supersample, w * supersample)
        _shade(
            *(x, y, inverse_depth, nearest, face, surface, poses[view], focal[view], supersample),
            *(output.albedo[view], output.normal[view], output.alpha[view], output.depth[view]),
        )
    return output


class _Surface(NamedTuple):
    """A RasterMesh as flat arrays; an empty array stands for what the mesh does not have."""

    vertices: np.ndarray  # (V, 3) float64
    faces: np.ndarray  # (F, 3) int64
    normals: np.ndarray  # (V, 3) or (0, 3) float64
    colors: np.ndarray  # (V, 3) or (0, 3) float64
    uv: np.ndarray  # (V, 2) or (0, 2) float64
    material: np.ndarray  # (F,) int64
    base: np.ndarray  # (M, 3) float64
    texels: np.ndarray  # (N, 4) uint8, all textures one after the other
    start: np.ndarray  # (M,) int64, of the material's texture in texels
    size: np.ndarray  # (M, 2) int64 height and width, 0 without texture
    cutout: np.ndarray  # (M,) bool, the texture has holes


def _pack(mesh: RasterMesh) -> _Surface:
    textures = [np.zeros((0, 0, 4), np.uint8) if m.texture is None else m.texture for m in mesh.materials]
    if mesh.uv is None:
        textures = [np.zeros((0, 0, 4), np.uint8) for _ in textures]
    lengths = [t.shape[0] * t.shape[1] for t in textures]
    return _Surface(
        vertices=np.ascontiguousarray(mesh.vertices, np.float64),
        faces=np.ascontiguousarray(mesh.faces, np.int64),
        normals=np.zeros((0, 3)) if mesh.normals is None else np.ascontiguousarray(mesh.normals, np.float64),
        colors=np.zeros((0, 3)) if mesh.colors is None else np.ascontiguousarray(mesh.colors, np.float64),
        uv=np.zeros((0, 2)) if mesh.uv is None else np.ascontiguousarray(mesh.uv, np.float64),
        material=np.zeros(len(mesh.faces), np.int64) if mesh.material is None else mesh.material.astype(np.int64),
        base=np.array([m.color for m in mesh.materials], np.float64).reshape(-1, 3),
        texels=np.ascontiguousarray(np.concatenate([t.reshape(-1, 4) for t in textures])),
        start=np.cumsum([0, *lengths[:-1]]).astype(np.int64),
        size=np.array([t.shape[:2] for t in textures], np.int64),
        cutout=np.array([bool((t[..., 3] < 128).any()) for t in textures]),
    )


def _project(
    vertices: np.ndarray, pose: np.ndarray, focal: float, height: int, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns, rows (in samples) and 1 / depth of the vertices; 1 / depth is 0 where a vertex is not before NEAR."""
    local = (vertices - pose[:, 3]) @ pose[:, :3]
    depth = -local[:, 2]
    inverse_depth = np.where(depth > NEAR, 1 / np.maximum(depth, NEAR), 0.0)
    x = 0.5 * width + focal * local[:, 0] * inverse_depth
    y = 0.5 * height - focal * local[:, 1] * inverse_depth
    return x, y, inverse_depth


@_compiled
def _texel(
    texels: np.ndarray, start: int, height: int, width: int, u: float, v: float
) -> tuple[float, float, float, float]:
    """Bilinear colour and alpha in [0, 1], repeating; holes do not bleed into the colour beside them."""
    x = (u - np.floor(u)) * width - 0.5
    y = (1.0 - (v - np.floor(v))) * height - 0.5
    x0, y0 = int(np.floor(x)), int(np.floor(y))
    fx, fy = x - x0, y - y0
    red = green = blue = alpha = 0.0
    for dy in range(2):
        for dx in range(2):
            index = start + (y0 + dy) % height * width + (x0 + dx) % width
            weight = (fx if dx else 1 - fx) * (fy if dy else 1 - fy) * texels[index, 3]
            red += weight * texels[index, 0]
            green += weight * texels[index, 1]
            blue += weight * texels[index, 2]
            alpha += weight
    scale = 1.0 / (255.0 * max(alpha, 1e-6))
    return red * scale, green * scale, blue * scale, alpha / 255.0


@_compiled
def _barycentric(
    x: np.ndarray, y: np.ndarray, i: int, j: int, k: int, px: float, py: float
) -> tuple[float, float, float]:
    """Screen-space coordinates of a point in a triangle; all 2 (outside of [0, 1]) where the triangle is a line."""
    area = (x[j] - x[i]) * (y[k] - y[i]) - (x[k] - x[i]) * (y[j] - y[i])
    if abs(area) < 1e-12:
        return 2.0, 2.0, 2.0
    b0 = ((x[j] - px) * (y[k] - py) - (x[k] - px) * (y[j] - py)) / area
    b1 = ((x[k] - px) * (y[i] - py) - (x[i] - px) * (y[k] - py)) / area
    return b0, b1, 1.0 - b0 - b1


@_compiled
def _visible(
    x: np.ndarray, y: np.ndarray, inverse_depth: np.ndarray, surface: _Surface, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """1 / depth (0: nothing) and face of what each sample sees, (height, width) both."""
    _, faces, _, _, uv, material, _, texels, start, size, cutout = surface
    nearest = np.zeros((height, width))
    seen = np.full((height, width), -1, np.int64)
    for f in range(len(faces)):
        i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
        if inverse_depth[i] == 0 or inverse_depth[j] == 0 or inverse_depth[k] == 0:
            continue
        first_row = max(0, int(np.ceil(min(y[i], y[j], y[k]) - 0.5)))
        last_row = min(height - 1, int(np.floor(max(y[i], y[j], y[k]) - 0.5)))
        first_column = max(0, int(np.ceil(min(x[i], x[j], x[k]) - 0.5)))
        last_column = min(width - 1, int(np.floor(max(x[i], x[j], x[k]) - 0.5)))
        m = material[f]
        for row in range(first_row, last_row + 1):
            for column in range(first_column, last_column + 1):
                b0, b1, b2 = _barycentric(x, y, i, j, k, column + 0.5, row + 0.5)
                # the tolerance keeps rounding from opening a crack along a shared edge
                if min(b0, b1, b2) < -1e-9 or b0 > 1.5:
                    continue
                q0, q1, q2 = b0 * inverse_depth[i], b1 * inverse_depth[j], b2 * inverse_depth[k]
                q = q0 + q1 + q2
                if q <= nearest[row, column]:
                    continue
                if cutout[m]:
                    u = (q0 * uv[i, 0] + q1 * uv[j, 0] + q2 * uv[k, 0]) / q
                    v = (q0 * uv[i, 1] + q1 * uv[j, 1] + q2 * uv[k, 1]) / q
                    if _texel(texels, start[m], size[m, 0], size[m, 1], u, v)[3] < 0.5:
                        continue
                nearest[row, column] = q
                seen[row, column] = f
    return nearest, seen


@_compiled
def _surface_normal(
    v: np.ndarray,
    n: np.ndarray,
    i: int,
    j: int,
    k: int,
    p0: float,
    p1: float,
    p2: float,
    ray: tuple[float, float, float],
) -> tuple[float, float, float]:
    """Unit normal on the camera's side: the interpolated one follows the face, so that silhouettes do not flip."""
    ax, ay, az = v[j, 0] - v[i, 0], v[j, 1] - v[i, 1], v[j, 2] - v[i, 2]
    bx, by, bz = v[k, 0] - v[i, 0], v[k, 1] - v[i, 1], v[k, 2] - v[i, 2]
    gx, gy, gz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
    if gx * ray[0] + gy * ray[1] + gz * ray[2] > 0:
        gx, gy, gz = -gx, -gy, -gz
    nx, ny, nz = gx, gy, gz
    if len(n) > 0:
        nx = p0 * n[i, 0] + p1 * n[j, 0] + p2 * n[k, 0]
        ny = p0 * n[i, 1] + p1 * n[j, 1] + p2 * n[k, 1]
        nz = p0 * n[i, 2] + p1 * n[j, 2] + p2 * n[k, 2]
        if nx * gx + ny * gy + nz * gz < 0:
            nx, ny, nz = -nx, -ny, -nz
    length = max(np.sqrt(nx * nx + ny * ny + nz * nz), 1e-30)
    return nx / length, ny / length, nz / length


@_compiled
def _shade(
    x: np.ndarray,
    y: np.ndarray,
    inverse_depth: np.ndarray,
    nearest: np.ndarray,
    seen: np.ndarray,
    surface: _Surface,
    pose: np.ndarray,
    focal: float,
    supersample: int,
    albedo: np.ndarray,
    normal: np.ndarray,
    alpha: np.ndarray,
    depth: np.ndarray,
) -> None:
    """Fill one view's images, each pixel with the mean of its covered samples."""
    vertices, faces, normals, colors, uv, material, base, texels, start, size, _ = surface
    height, width = nearest.shape
    for row in range(height):
        for column in range(width):
            f = seen[row, column]
            if f < 0:
                continue
            i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
            b0, b1, b2 = _barycentric(x, y, i, j, k, column + 0.5, row + 0.5)
            q = nearest[row, column]
            p0, p1, p2 = b0 * inverse_depth[i] / q, b1 * inverse_depth[j] / q, b2 * inverse_depth[k] / q
            right, up = (column + 0.5 - 0.5 * width) / focal, (0.5 * height - row - 0.5) / focal
            ray = (
                pose[0, 0] * right + pose[0, 1] * up - pose[0, 2],
                pose[1, 0] * right + pose[1, 1] * up - pose[1, 2],
                pose[2, 0] * right + pose[2, 1] * up - pose[2, 2],
            )
            m = material[f]
            red, green, blue = base[m, 0], base[m, 1], base[m, 2]
            if size[m, 0] > 0:
                u = p0 * uv[i, 0] + p1 * uv[j, 0] + p2 * uv[k, 0]
                v = p0 * uv[i, 1] + p1 * uv[j, 1] + p2 * uv[k, 1]
                texel = _texel(texels, start[m], size[m, 0], size[m, 1], u, v)
                red, green, blue = red * texel[0], green * texel[1], blue * texel[2]
            if len(colors) > 0:
                red *= p0 * colors[i, 0] + p1 * colors[j, 0] + p2 * colors[k, 0]
                green *= p0 * colors[i, 1] + p1 * colors[j, 1] + p2 * colors[k, 1]
                blue *= p0 * colors[i, 2] + p1 * colors[j, 2] + p2 * colors[k, 2]
            direction = _surface_normal(vertices, normals, i, j, k, p0, p1, p2, ray)
            r, c = row // supersample, column // supersample
            for axis in range(3):
                albedo[r, c, axis] += (red, green, blue)[axis]
                normal[r, c, axis] += direction[axis]
            alpha[r, c] += 1.0
            depth[r, c] += np.sqrt(1 + right * right + up * up) / q
    for r in range(alpha.shape[0]):
        for c in range(alpha.shape[1]):
            if alpha[r, c] > 0:
                length = max(np.sqrt(normal[r, c, 0] ** 2 + normal[r, c, 1] ** 2 + normal[r, c, 2] ** 2), 1e-12)
                for axis in range(3):
                    albedo[r, c, axis] /= alpha[r, c]
                    normal[r, c, axis] /= length
                depth[r, c] /= alpha[r, c]
                alpha[r, c] /= supersample * supersample
