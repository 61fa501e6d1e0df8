"""Stage 9: the renderer interface, and compositing of packed samples to images (Poole et al. 2022, Eq. 5)."""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dreamfusion.camera.rays import cast_rays
from dreamfusion.ops.composite import accumulate, composite
from dreamfusion.scene.nerf.field import Field
from dreamfusion.scene.shading import ALBEDO, Shading
from dreamfusion.types import Cameras, RayBundle, RaySamples, RenderOutput, check_shapes


@dataclass(frozen=True, eq=False)
class RayRender(RenderOutput):
    """B images with the packed samples that were composited."""

    weights: Tensor  # (S,) compositing weight of each sample
    samples: RaySamples
    sample_normal: Tensor | None  # (S, 3)
    directions: Tensor  # (R, 3) of the rays, unit

    def __post_init__(self) -> None:
        super().__post_init__()
        b, _, h, w = self.rgb.shape
        check_shapes(self, weights=(len(self.samples),), directions=(b * h * w, 3))


class Renderer(nn.Module):
    """Volume renderer of a field over a background; subclasses define the sampling along rays."""

    most_samples: int  # on one ray

    def update(self, field: Field, step: int) -> None:
        """Update acceleration structures from the field; called before every training step."""

    @abstractmethod
    def sample(self, rays: RayBundle, generator: torch.Generator | None) -> RaySamples:
        """Samples along R rays; `generator` jitters them, None is evaluation."""

    def forward(
        self,
        cameras: Cameras,
        field: Field,
        background: nn.Module,
        shading: Shading = ALBEDO,
        with_normal: bool = False,
        generator: torch.Generator | None = None,
        rows: slice = slice(None),
    ) -> RayRender:
        """Render B cameras; `generator` jitters the samples and draws backgrounds, None is evaluation.

        `with_normal` adds normals even if the shading needs none; `rows` are the image rows to render.
        """
        rays = cast_rays(cameras, rows)
        samples = self.sample(rays, generator)
        with_normal = with_normal or shading.needs_normal
        out = field(samples.positions, with_normal=with_normal)
        weights = composite(out.density, samples)
        per_view = len(rays) // len(cameras)
        light = cameras.light[samples.ray // per_view] if shading.needs_normal else None
        color = shading(out, samples.positions, light)
        values = [color] if out.normal is None else [color, out.normal]
        sums, depth, opacity = accumulate(weights, values, samples)
        behind = background(rays.directions, len(cameras), generator)
        images = torch.cat([sums[:, :3] + (1 - opacity) * behind, depth, opacity, sums[:, 3:]], dim=-1)
        images = images.view(len(cameras), -1, cameras.width, images.shape[-1]).permute(0, 3, 1, 2)
        return RayRender(
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
