"""The protocol of a scene: all that the training step, views, exports and scores know of the 3D representation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dreamfusion.scene.shading import ALBEDO, Shading
from dreamfusion.types import Cameras, Mesh, RenderOutput


@dataclass(frozen=True)
class Term:
    """A regulariser: an image-wise or scene-wise penalty on a render."""

    penalty: Callable[[RenderOutput], Tensor]  # -> ()
    needs_normal: bool = False


class Scene(nn.Module):
    """A differentiable 3D representation inside the ball of `radius` scene units around the origin."""

    radius: float
    background: nn.Module  # directions (R, 3), number of views, generator or None -> colours (R, 3)

    @abstractmethod
    def render(
        self,
        cameras: Cameras,
        shading: Shading = ALBEDO,
        with_normal: bool = False,
        generator: torch.Generator | None = None,
        rows: slice = slice(None),
        background: nn.Module | None = None,
    ) -> RenderOutput:
        """Render B cameras, differentiably.

        Args:
            cameras: B cameras.
            shading: albedo only, Lambertian or textureless.
            with_normal: return normals even where the shading needs none.
            generator: source of all randomness of a training render; None renders for evaluation, without any.
            rows: the rows of each image to render; H of the output is their number.
            background: replaces the scene's own.
        """

    @abstractmethod
    def parameter_groups(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """Parameters by the name of their learning rate (`optimizer.learning_rates`)."""

    def before_step(self, step: int) -> None:
        """Update acceleration structures before training step `step`."""

    def after_backward(self, step: int) -> None:
        """Change the number of primitives after the backward pass of `step` (densify, prune)."""

    def regularizers(self) -> Mapping[str, Term]:
        """Regularisers of this kind of scene, by name, beside the image-wise ones of `loss.py`."""
        return {}

    def figures(self, render: RenderOutput) -> Mapping[str, float]:
        """Numbers about a training render to log, by name."""
        return {}

    def surface(self) -> Mesh | None:
        """The triangle mesh of a scene that has one already; None: the surface is extracted from its density."""
        return None
