"""`render_feature_volume` on any GPU: Triton kernels that interpolate and composite tiles of rays by samples.

A program renders one head of a few rays. The gradient of the volume is summed by atomics: its last bits vary.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from dreamfusion.ops.launch import launch, tile

_RAYS, _SAMPLES = tile(1, interpreted=64), tile(32, interpreted=32)  # with more rays, registers spill


def render_feature_volume(volume: Tensor, points: Tensor, heads: int) -> Tensor:
    """(G, N, N, N, H (1 + F)), (G, R, D, 3) -> (G, R, H (2 + F))."""
    seen: Tensor = _RenderFeatureVolume.apply(volume, points, heads)
    return seen


class _RenderFeatureVolume(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, volume: Tensor, points: Tensor, heads: int) -> Tensor:
        volume, points = volume.contiguous(), points.contiguous()
        seen = volume.new_empty(*points.shape[:2], volume.shape[4] + heads)
        _launch(_forward, volume, points, heads, seen)
        ctx.save_for_backward(volume, points, seen)
        ctx.heads = heads  # type: ignore[attr-defined]
        return seen

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None]:
        volume, points, seen = ctx.saved_tensors  # type: ignore[attr-defined]
        to_volume = torch.zeros_like(volume)
        _launch(_backward, volume, points, ctx.heads, seen, gradient.contiguous(), to_volume)  # type: ignore[attr-defined]
        return to_volume, None, None


def _launch(kernel: triton.JITFunction, volume: Tensor, points: Tensor, heads: int, *arrays: Tensor) -> None:
    (volumes, rays, depths, _), features = points.shape, volume.shape[4] // heads - 1
    grid = triton.cdiv(volumes * rays, _RAYS), heads
    width = max(triton.next_power_of_2(features), 1)
    settings = {"W": width, "RAYS": _RAYS, "SAMPLES": _SAMPLES}
    launch(kernel, grid, volume, points, *arrays, volumes * rays, rays, depths, volume.shape[1], features, **settings)


@triton.jit(do_not_specialize=["total", "rays"])
def _forward(
    volume: tl.tensor,  # (G, N, N, N, H (1 + F))
    points: tl.tensor,  # (G, R, D, 3)
    seen: tl.tensor,  # (G, R, H (2 + F))
    total: tl.tensor,  # G R
    rays: tl.tensor,  # R
    depths: tl.tensor,  # D
    side: tl.tensor,  # N
    F: tl.constexpr,
    W: tl.constexpr,  # F rounded up to a power of 2
    RAYS: tl.constexpr,
    SAMPLES: tl.constexpr,
) -> None:
    """Sum weight, weight times depth and weight times features over the samples of each ray."""
    ray, head, feature = tl.program_id(0) * RAYS + tl.arange(0, RAYS), tl.program_id(1), tl.arange(0, W)
    valid, channels = ray < total, tl.num_programs(1) * (1 + F)
    before, opacity, depth = tl.zeros((RAYS,), tl.float32), tl.zeros((RAYS,), tl.float32), tl.zeros((RAYS,), tl.float32)
    features = tl.zeros((RAYS, W), tl.float32)
    first_channel = volume + (ray // rays).to(tl.int64) * side * side * side * channels + head * (1 + F)
    for first in range(0, depths, SAMPLES):
        sample = first + tl.arange(0, SAMPLES)
        low, high, share, inside = _locate(points, ray, sample, depths, side, valid)
        density, values = _read(first_channel, low, high, share, inside, side, channels, feature, F)
        thickness = tl.where(inside, _softplus(density), 0.0)
        through = before[:, None] + tl.cumsum(thickness, axis=1)
        weight = tl.where(inside, tl.exp(thickness - through) * tl.sigmoid(density), 0.0)
        opacity += tl.sum(weight, axis=1)
        depth += tl.sum(weight * ((sample + 0.5) / depths)[None, :], axis=1)
        features += tl.sum(weight[:, :, None] * values, axis=1)
        before += tl.sum(thickness, axis=1)
    out = seen + (ray.to(tl.int64) * tl.num_programs(1) + head) * (2 + F)
    tl.store(out, opacity, mask=valid)
    tl.store(out + 1, depth, mask=valid)
    tl.store(out[:, None] + 2 + feature[None, :], features, mask=valid[:, None] & (feature < F)[None, :])


@triton.jit(do_not_specialize=["total", "rays"])
def _backward(
    volume: tl.tensor,  # (G, N, N, N, H (1 + F))
    points: tl.tensor,  # (G, R, D, 3)
    seen: tl.tensor,  # (G, R, H (2 + F))
    gradient: tl.tensor,  # like `seen`
    to_volume: tl.tensor,  # like `volume`, zeros
    total: tl.tensor,  # G R
    rays: tl.tensor,  # R
    depths: tl.tensor,  # D
    side: tl.tensor,  # N
    F: tl.constexpr,
    W: tl.constexpr,
    RAYS: tl.constexpr,
    SAMPLES: tl.constexpr,
) -> None:
    """Add the gradients of density and features at each sample to the eight voxels around it.

    A sample is worth u_i = <gradient, (1, depth_i, features_i)>. Its optical depth has the gradient T_{i+1} u_i minus
    the sum of w_j u_j behind it, which is <gradient, seen> minus the sum up to it: one pass, front to back, suffices.
    """
    ray, head, feature = tl.program_id(0) * RAYS + tl.arange(0, RAYS), tl.program_id(1), tl.arange(0, W)
    valid, channels = ray < total, tl.num_programs(1) * (1 + F)
    at = (ray.to(tl.int64) * tl.num_programs(1) + head) * (2 + F)
    to_opacity = tl.load(gradient + at, mask=valid, other=0.0)
    to_depth = tl.load(gradient + at + 1, mask=valid, other=0.0)
    known = valid[:, None] & (feature < F)[None, :]
    to_features = tl.load(gradient + at[:, None] + 2 + feature[None, :], mask=known, other=0.0)
    left = to_opacity * tl.load(seen + at, mask=valid, other=0.0)
    left += to_depth * tl.load(seen + at + 1, mask=valid, other=0.0)
    left += tl.sum(to_features * tl.load(seen + at[:, None] + 2 + feature[None, :], mask=known, other=0.0), axis=1)
    before = tl.zeros((RAYS,), tl.float32)
    first_channel = (ray // rays).to(tl.int64) * side * side * side * channels + head * (1 + F)
    for first in range(0, depths, SAMPLES):
        sample = first + tl.arange(0, SAMPLES)
        low, high, share, inside = _locate(points, ray, sample, depths, side, valid)
        density, values = _read(volume + first_channel, low, high, share, inside, side, channels, feature, F)
        thickness = tl.where(inside, _softplus(density), 0.0)
        through = before[:, None] + tl.cumsum(thickness, axis=1)
        weight = tl.where(inside, tl.exp(thickness - through) * tl.sigmoid(density), 0.0)
        worth = to_opacity[:, None] + to_depth[:, None] * ((sample + 0.5) / depths)[None, :]
        worth += tl.sum(to_features[:, None, :] * values, axis=2)
        behind = left[:, None] - tl.cumsum(weight * worth, axis=1)
        to_density = (worth * tl.exp(-through) - behind) * tl.sigmoid(density)
        to_values = weight[:, :, None] * to_features[:, None, :]
        for c in tl.static_range(8):
            voxel, part = _corner(low, high, share, side, c)
            place = to_volume + first_channel[:, None] + voxel * channels
            tl.atomic_add(place, part * to_density, mask=inside, sem="relaxed")
            tl.atomic_add(
                place[:, :, None] + 1 + feature[None, None, :],
                part[:, :, None] * to_values,
                mask=inside[:, :, None] & (feature < F)[None, None, :],
                sem="relaxed",
            )
        left -= tl.sum(weight * worth, axis=1)
        before += tl.sum(thickness, axis=1)


@triton.jit
def _locate(
    points: tl.tensor, ray: tl.tensor, sample: tl.tensor, depths: tl.tensor, side: tl.tensor, valid: tl.tensor
) -> tl.tuple:
    """Voxels below and above each sample and the weights of the latter, along x, y, z; whether inside the volume."""
    at = points + 3 * (ray.to(tl.int64)[:, None] * depths + sample[None, :])
    own = valid[:, None] & (sample < depths)[None, :]
    x, y = tl.load(at, mask=own, other=2.0), tl.load(at + 1, mask=own, other=2.0)
    z = tl.load(at + 2, mask=own, other=2.0)
    inside = (tl.abs(x) <= 1) & (tl.abs(y) <= 1) & (tl.abs(z) <= 1)
    x_low, x_high, x_share = _between(tl.where(inside, x, 0.0), side)
    y_low, y_high, y_share = _between(tl.where(inside, y, 0.0), side)
    z_low, z_high, z_share = _between(tl.where(inside, z, 0.0), side)
    return (x_low, y_low, z_low), (x_high, y_high, z_high), (x_share, y_share, z_share), inside


@triton.jit
def _between(x: tl.tensor, side: tl.tensor) -> tl.tuple:
    place = tl.minimum(tl.maximum((x + 1) * 0.5 * side - 0.5, 0.0), side - 1.0)
    low = place.to(tl.int32)
    return low, tl.minimum(low + 1, side - 1), place - low


@triton.jit
def _corner(low: tl.tuple, high: tl.tuple, share: tl.tuple, side: tl.tensor, c: tl.constexpr) -> tl.tuple:
    """Index of corner c in the volume and its trilinear weight; bit d of c is its step along x, y, z."""
    x, y, z = high[0] if c & 1 else low[0], high[1] if c & 2 else low[1], high[2] if c & 4 else low[2]
    wx, wy = share[0] if c & 1 else 1 - share[0], share[1] if c & 2 else 1 - share[1]
    return ((z * side + y) * side + x).to(tl.int64), wx * wy * (share[2] if c & 4 else 1 - share[2])


@triton.jit
def _read(
    first_channel: tl.tensor,
    low: tl.tuple,
    high: tl.tuple,
    share: tl.tuple,
    inside: tl.tensor,
    side: tl.tensor,
    channels: tl.tensor,
    feature: tl.tensor,
    F: tl.constexpr,
) -> tl.tuple:
    """Interpolated density (RAYS, SAMPLES) and features (RAYS, SAMPLES, W) of a head."""
    known = inside[:, :, None] & (feature < F)[None, None, :]
    density = tl.zeros_like(share[0])
    values = density[:, :, None] + tl.zeros_like(feature).to(tl.float32)[None, None, :]
    for c in tl.static_range(8):
        voxel, part = _corner(low, high, share, side, c)
        place = first_channel[:, None] + voxel * channels
        density += part * tl.load(place, mask=inside, other=0.0)
        values += part[:, :, None] * tl.load(place[:, :, None] + 1 + feature[None, None, :], mask=known, other=0.0)
    return density, values


@triton.jit
def _softplus(x: tl.tensor) -> tl.tensor:
    return tl.maximum(x, 0.0) + tl.log(1 + tl.exp(-tl.abs(x)))
