"""Stage 9: from packed samples to images; what both samplers share (Poole et al. 2022, Eq. 5)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from dreamfusion.camera.rays import cast_rays
from dreamfusion.field.base import Field
from dreamfusion.ops.composite import accumulate, composite
from dreamfusion.renderer.shading import Shading
from dreamfusion.types import Cameras, RayBundle, RaySamples, RenderOutput

Sampler = Callable[[RayBundle], RaySamples]


def render(
    cameras: Cameras,
    field: Field,
    background: nn.Module,
    sample: Sampler,
    shading: Shading,
    with_normal: bool,
    generator: torch.Generator | None,
) -> RenderOutput:
    """Images of the field from B cameras; `with_normal` asks for normals even where the shading needs none."""
    rays = cast_rays(cameras)
    samples = sample(rays)
    with_normal = with_normal or shading.needs_normal
    out = field(samples.positions, with_normal=with_normal)
    weights = composite(out.density, samples)
    per_view = cameras.height * cameras.width
    light = cameras.light[samples.ray // per_view]
    color = shading(out, samples.positions, light)
    depth = (samples.t_start + samples.t_end)[:, None] / 2
    parts = [color, depth, torch.ones_like(depth)] + ([] if out.normal is None else [out.normal])
    sums = accumulate(weights, torch.cat(parts, dim=-1), samples)  # (R, 5 or 8)
    behind = background(rays.directions, len(cameras), generator)
    opacity = sums[:, 4:5]
    images = torch.cat([sums[:, :3] + (1 - opacity) * behind, sums[:, 3:]], dim=-1)
    images = images.view(len(cameras), cameras.height, cameras.width, -1).permute(0, 3, 1, 2)
    return RenderOutput(
        rgb=images[:, :3],
        background=behind.detach().view(len(cameras), -1, 3).mean(dim=1),
        opacity=images[:, 4:5],
        depth=images[:, 3:4],
        normal=images[:, 5:8] if out.normal is not None else None,
        weights=weights,
        samples=samples,
        sample_normal=out.normal,
        directions=rays.directions,
    )
