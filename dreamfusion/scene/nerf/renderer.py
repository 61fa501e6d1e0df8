"""Stage 9: the renderer interface, and compositing of packed samples to images (Poole et al. 2022, Eq. 5)."""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dreamfusion.camera.rays import cast_rays
from dreamfusion.ops.composite import accumulate, composite
from dreamfusion.scene.nerf.field import Field
from dreamfusion.scene.shading import ALBEDO, Shading
from dreamfusion.types import Cameras, FieldOutput, RayBundle, RaySamples, RenderOutput, check_shapes

STEP = 2**30  # bytes that the field may keep of the samples of a step
SHARE = 4  # on a GPU it may keep this part of the whole memory


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
        out = evaluate(field, samples.positions, with_normal)
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


def evaluate(field: Field, positions: Tensor, with_normal: bool) -> FieldOutput:
    """The field at positions (S, 3), in parts if a step would keep more bytes than STEP.

    Of parts only the results are kept: the backward pass evaluates one part after the other again. The gradients differ
    from those of the whole in the order of sums only.
    """
    part = step_bytes(positions.device) // field.bytes_per_sample(with_normal)
    if len(positions) <= part or not torch.is_grad_enabled():
        return field(positions, with_normal=with_normal)
    outputs = [
        checkpoint(field, some, with_normal, use_reentrant=False, preserve_rng_state=False)
        for some in positions.split(part)
    ]
    normal = torch.cat([out.normal for out in outputs]) if with_normal else None
    return FieldOutput(torch.cat([out.density for out in outputs]), torch.cat([out.albedo for out in outputs]), normal)


def step_bytes(device: torch.device) -> int:
    """Bytes of the field's activations; the same for each step of a run, which is bit-equal when it is repeated."""
    if device.type != "cuda":
        return STEP
    return max(STEP, torch.cuda.get_device_properties(device).total_memory // SHARE)
