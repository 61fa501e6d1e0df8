"""What a renderer is to the training step (stages 6 to 9)."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import nn

from dreamfusion.field.base import Field
from dreamfusion.renderer.shading import ALBEDO, Shading
from dreamfusion.types import Cameras, RenderOutput


class Renderer(nn.Module):
    """Cameras -> images of a field over a background."""

    @abstractmethod
    def update(self, field: Field, step: int) -> None:
        """Bring what is remembered of the field up to date; called before every training step."""

    @abstractmethod
    def forward(
        self,
        cameras: Cameras,
        field: Field,
        background: nn.Module,
        shading: Shading = ALBEDO,
        with_normal: bool = False,
        generator: torch.Generator | None = None,
    ) -> RenderOutput:
        """Images from B cameras; `generator` moves the samples and draws backgrounds, None is evaluation.

        `with_normal` asks for normals even where the shading needs none.
        """
