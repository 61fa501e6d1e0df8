"""Trilinear interpolation in the cells of a block of points: weights, values and derivatives, for `kernels.py`.

Bit d of corner c is its step along axis d; `fraction` (3 BLOCK) is the position of a point in its cell; `scale` is the
number of cells per unit of x. Scratch buffers are flat, in rows of BLOCK, so that strides are compile-time constants:
with rows of unknown length the compiler does not vectorise (1.8 to 3 times slower). numba's cache does not detect
changes in this file: touch kernels.py after one.
"""

import numpy as np

from dreamfusion.ops.kernel_cache import njit

Array = np.ndarray
_compiled = njit(nogil=True, fastmath=True, error_model="numpy")

BLOCK = 128  # points; their indices, weights and fractions take 10 KB
_ONE = np.float32(1)


@_compiled
def weigh(fraction: Array, v: Array, start: int, count: int, scale: np.float32, weight: Array) -> None:
    """Trilinear weights of the corners; with `v` their derivatives along v."""
    if v.size != 0:
        weigh_jvp(fraction, v, start, count, scale, weight)
        return
    for j in range(count):
        x1, y1, z1 = fraction[j], fraction[BLOCK + j], fraction[2 * BLOCK + j]
        x0, y0, z0 = _ONE - x1, _ONE - y1, _ONE - z1
        weight[j] = x0 * y0 * z0
        weight[BLOCK + j] = x1 * y0 * z0
        weight[2 * BLOCK + j] = x0 * y1 * z0
        weight[3 * BLOCK + j] = x1 * y1 * z0
        weight[4 * BLOCK + j] = x0 * y0 * z1
        weight[5 * BLOCK + j] = x1 * y0 * z1
        weight[6 * BLOCK + j] = x0 * y1 * z1
        weight[7 * BLOCK + j] = x1 * y1 * z1


@_compiled
def weigh_jvp(fraction: Array, v: Array, start: int, count: int, scale: np.float32, weight: Array) -> None:
    """Derivatives of the trilinear weights along v: v . grad w_c."""
    v0, v1, v2 = v[0, start : start + count], v[1, start : start + count], v[2, start : start + count]
    for j in range(count):
        x1, y1, z1 = fraction[j], fraction[BLOCK + j], fraction[2 * BLOCK + j]
        x0, y0, z0 = _ONE - x1, _ONE - y1, _ONE - z1
        vx, vy, vz = scale * v0[j], scale * v1[j], scale * v2[j]
        weight[j] = -vx * y0 * z0 - vy * x0 * z0 - vz * x0 * y0
        weight[BLOCK + j] = vx * y0 * z0 - vy * x1 * z0 - vz * x1 * y0
        weight[2 * BLOCK + j] = -vx * y1 * z0 + vy * x0 * z0 - vz * x0 * y1
        weight[3 * BLOCK + j] = vx * y1 * z0 + vy * x1 * z0 - vz * x1 * y1
        weight[4 * BLOCK + j] = -vx * y0 * z1 - vy * x0 * z1 + vz * x0 * y0
        weight[5 * BLOCK + j] = vx * y0 * z1 - vy * x1 * z1 + vz * x1 * y0
        weight[6 * BLOCK + j] = -vx * y1 * z1 + vy * x0 * z1 + vz * x0 * y1
        weight[7 * BLOCK + j] = vx * y1 * z1 + vy * x1 * z1 + vz * x1 * y1


@_compiled
def expand(
    corner: Array, fraction: Array, start: int, count: int, scale: np.float32, both: Array, jacobian: Array
) -> None:
    """Interpolate the corner values into the first row of `both` (4 BLOCK), and write the gradient to `jacobian`."""
    for j in range(count):
        x1, y1, z1 = fraction[j], fraction[BLOCK + j], fraction[2 * BLOCK + j]
        c0, c1, c2, c3 = corner[j], corner[BLOCK + j], corner[2 * BLOCK + j], corner[3 * BLOCK + j]
        c4, c5, c6, c7 = corner[4 * BLOCK + j], corner[5 * BLOCK + j], corner[6 * BLOCK + j], corner[7 * BLOCK + j]
        x00, x10, x01, x11 = c1 - c0, c3 - c2, c5 - c4, c7 - c6
        y00, y10, y01, y11 = c0 + x1 * x00, c2 + x1 * x10, c4 + x1 * x01, c6 + x1 * x11
        near, far = y00 + y1 * (y10 - y00), y01 + y1 * (y11 - y01)
        both[j] = near + z1 * (far - near)
        x_near, x_far = x00 + y1 * (x10 - x00), x01 + y1 * (x11 - x01)
        both[BLOCK + j] = scale * (x_near + z1 * (x_far - x_near))
        both[2 * BLOCK + j] = scale * (y10 - y00 + z1 * (y11 - y01 - (y10 - y00)))
        both[3 * BLOCK + j] = scale * (far - near)
    for d in range(3):
        to = jacobian[d, start : start + count]
        for j in range(count):
            to[j] = both[(d + 1) * BLOCK + j]


@_compiled
def add_gradient(corner: Array, fraction: Array, start: int, count: int, scale: np.float32, out: Array) -> None:
    """Add the gradient of the trilinear interpolation of the corner values to `out`."""
    for j in range(count):
        x1, y1, z1 = fraction[j], fraction[BLOCK + j], fraction[2 * BLOCK + j]
        x0, y0, z0 = _ONE - x1, _ONE - y1, _ONE - z1
        c0, c1, c2, c3 = corner[j], corner[BLOCK + j], corner[2 * BLOCK + j], corner[3 * BLOCK + j]
        c4, c5, c6, c7 = corner[4 * BLOCK + j], corner[5 * BLOCK + j], corner[6 * BLOCK + j], corner[7 * BLOCK + j]
        k = start + j
        out[0, k] += scale * (((c1 - c0) * y0 + (c3 - c2) * y1) * z0 + ((c5 - c4) * y0 + (c7 - c6) * y1) * z1)
        out[1, k] += scale * (((c2 - c0) * x0 + (c3 - c1) * x1) * z0 + ((c6 - c4) * x0 + (c7 - c5) * x1) * z1)
        out[2, k] += scale * (((c4 - c0) * x0 + (c5 - c1) * x1) * y0 + ((c6 - c2) * x0 + (c7 - c3) * x1) * y1)


@_compiled
def add_hessian_product(
    corner: Array, fraction: Array, v: Array, start: int, count: int, scale: np.float32, out: Array
) -> None:
    """out += H v, H the Hessian of the trilinear interpolation (its diagonal is zero)."""
    for j in range(count):
        x1, y1, z1 = fraction[j], fraction[BLOCK + j], fraction[2 * BLOCK + j]
        c0, c1, c2, c3 = corner[j], corner[BLOCK + j], corner[2 * BLOCK + j], corner[3 * BLOCK + j]
        c4, c5, c6, c7 = corner[4 * BLOCK + j], corner[5 * BLOCK + j], corner[6 * BLOCK + j], corner[7 * BLOCK + j]
        xy = (c3 - c2 - c1 + c0) * (_ONE - z1) + (c7 - c6 - c5 + c4) * z1
        xz = (c5 - c4 - c1 + c0) * (_ONE - y1) + (c7 - c6 - c3 + c2) * y1
        yz = (c6 - c4 - c2 + c0) * (_ONE - x1) + (c7 - c5 - c3 + c1) * x1
        k = start + j
        vx, vy, vz = scale * scale * v[0, k], scale * scale * v[1, k], scale * scale * v[2, k]
        out[0, k] += vy * xy + vz * xz
        out[1, k] += vx * xy + vz * yz
        out[2, k] += vx * xz + vy * yz
