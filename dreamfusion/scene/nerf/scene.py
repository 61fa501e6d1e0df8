"""`scene=nerf`: a density field and a background, volume-rendered."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dreamfusion.scene.base import Scene, Term
from dreamfusion.scene.nerf.field import Field
from dreamfusion.scene.nerf.renderer import RayRender, Renderer
from dreamfusion.scene.shading import ALBEDO, Shading
from dreamfusion.types import Cameras, RenderOutput

# Of a sample without gradient, with 16 levels in the torch reference, which takes most: 550 and 3,700 measured.
SAMPLE_BYTES, SAMPLE_BYTES_WITH_NORMAL = 640, 4096


class NeRF(Scene):
    """A neural radiance field: stages 5 to 9 of the flow."""

    def __init__(self, field: Field, background: nn.Module, renderer: Renderer) -> None:
        super().__init__()
        self.field, self.background, self.renderer = field, background, renderer
        self.radius = field.radius

    def render(
        self,
        cameras: Cameras,
        shading: Shading = ALBEDO,
        with_normal: bool = False,
        generator: torch.Generator | None = None,
        rows: slice = slice(None),
        background: nn.Module | None = None,
    ) -> RayRender:
        """See `Scene.render`; the generator jitters the samples and draws backgrounds."""
        behind = self.background if background is None else background
        render: RayRender = self.renderer(cameras, self.field, behind, shading, with_normal, generator, rows)
        return render

    def volume(self) -> "NeRF":
        return self

    def bytes_per_ray(self, with_normal: bool) -> int:
        return self.renderer.most_samples * (SAMPLE_BYTES_WITH_NORMAL if with_normal else SAMPLE_BYTES)

    def parameter_groups(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """`table`: the hash table; `network`: the field's MLP and the background."""
        named = list(self.field.named_parameters())
        networks = [parameter for name, parameter in named if name != "table"]
        return {
            "table": [parameter for name, parameter in named if name == "table"],
            "network": [*networks, *self.background.parameters()],
        }

    def before_step(self, step: int) -> None:
        """Update the occupancy grid from the field."""
        self.renderer.update(self.field, step)

    def after_backward(self, step: int, progress: float, optimizer: torch.optim.Optimizer | None = None) -> None:
        """See `Field.before_optimizer`."""
        self.field.before_optimizer(progress)

    def regularizers(self) -> Mapping[str, Term]:
        return {"orientation": Term(orientation_loss, needs_normal=True)}

    def figures(self, render: RenderOutput) -> Mapping[str, float]:
        assert isinstance(render, RayRender)
        return {"samples_per_ray": len(render.samples) / render.directions.shape[0]}


def orientation_loss(render: RenderOutput) -> Tensor:
    """Mean over rays of sum_i sg(w_i) max(0, n_i . v)^2: visible normals face the camera (Ref-NeRF, Eq. 11)."""
    assert isinstance(render, RayRender)
    if render.sample_normal is None:
        raise ValueError("the orientation loss needs normals; render with with_normal=True")
    facing_away = (render.sample_normal * render.directions[render.samples.ray]).sum(-1).clamp(min=0)
    return (render.weights.detach() * facing_away.square()).sum() / render.directions.shape[0]
