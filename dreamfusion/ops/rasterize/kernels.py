"""Compiled loops of `rasterize`: visibility and shading of each sample. Numba, one thread.

Inner functions take plain arrays: a named tuple argument would cost a reference count per field and sample.
"""

from typing import NamedTuple

import numpy as np

from dreamfusion.ops.kernel_cache import njit

Array = np.ndarray
_compiled = njit(nogil=True, fastmath=True, error_model="numpy")


class Surface(NamedTuple):
    """A RasterMesh as flat arrays; empty arrays stand for missing attributes."""

    vertices: Array  # (V, 3) float64
    faces: Array  # (F, 3) int64
    normals: Array  # (V, 3) or (0, 3) float64
    colors: Array  # (V, 3) or (0, 3) float64
    uv: Array  # (V, 2) or (0, 2) float64
    material: Array  # (F,) int64
    base: Array  # (M, 3) float64
    texels: Array  # (N, 4) uint8, all textures concatenated
    start: Array  # (M,) int64, start of the material's texture in texels
    size: Array  # (M, 2) int64 height and width, 0 without texture
    cutout: Array  # (M,) bool, texture has transparent texels


class Screen(NamedTuple):
    """Vertices projected by one camera."""

    x: Array  # (V,) columns, in samples
    y: Array  # (V,) rows, in samples
    inverse_depth: Array  # (V,) 1 / depth, 0 for vertices too near or behind


@_compiled
def visible(screen: Screen, surface: Surface, height: int, width: int) -> tuple[Array, Array]:
    """1 / depth (0: nothing) and face (-1: none) visible at each sample, (height, width) both."""
    x, y, inverse_depth = screen
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
                # the tolerance prevents cracks along shared edges from rounding
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
def shade(
    screen: Screen, nearest: Array, seen: Array, surface: Surface, pose: Array, focal: float, supersample: int
) -> Array:
    """(H, W, 8) sums over each pixel's covered samples: albedo (3), unit normal (3), distance along the ray, count."""
    vertices, faces, normals, colors, uv, material, base, texels, start, size, _ = surface
    x, y, inverse_depth = screen
    height, width = nearest.shape
    sums = np.zeros((height // supersample, width // supersample, 8), np.float32)
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
                sums[r, c, axis] += (red, green, blue)[axis]
                sums[r, c, 3 + axis] += direction[axis]
            sums[r, c, 6] += np.sqrt(1 + right * right + up * up) / q
            sums[r, c, 7] += 1.0
    return sums


@_compiled
def _surface_normal(
    v: Array, n: Array, i: int, j: int, k: int, p0: float, p1: float, p2: float, ray: tuple[float, float, float]
) -> tuple[float, float, float]:
    """Unit normal facing the camera: the interpolated one follows the face, so that silhouettes do not flip."""
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
def _barycentric(x: Array, y: Array, i: int, j: int, k: int, px: float, py: float) -> tuple[float, float, float]:
    """Screen-space barycentric coordinates; all 2 (outside [0, 1]) for degenerate triangles."""
    area = (x[j] - x[i]) * (y[k] - y[i]) - (x[k] - x[i]) * (y[j] - y[i])
    if abs(area) < 1e-12:
        return 2.0, 2.0, 2.0
    b0 = ((x[j] - px) * (y[k] - py) - (x[k] - px) * (y[j] - py)) / area
    b1 = ((x[k] - px) * (y[i] - py) - (x[i] - px) * (y[k] - py)) / area
    return b0, b1, 1.0 - b0 - b1


@_compiled
def _texel(texels: Array, start: int, height: int, width: int, u: float, v: float) -> tuple[float, float, float, float]:
    """Bilinear colour and alpha in [0, 1], repeating; transparent texels do not affect the colour."""
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
