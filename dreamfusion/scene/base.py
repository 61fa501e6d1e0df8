"""The scene interface, which the training step, viewer, exports and scores share for every 3D representation."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dreamfusion.error import UserError
from dreamfusion.scene.shading import ALBEDO, Shading
from dreamfusion.types import Cameras, Gaussians, Mesh, RenderOutput

if TYPE_CHECKING:
    from dreamfusion.ops.rasterize import RasterMesh  # imports numba
    from dreamfusion.scene.nerf.scene import NeRF  # a Scene


@dataclass(frozen=True)
class Term:
    """A regulariser: a scalar penalty on a render."""

    penalty: Callable[[RenderOutput], Tensor]  # -> ()
    needs_normal: bool = False


class Scene(nn.Module):
    """A differentiable 3D representation inside the ball of `radius` scene units around the origin."""

    radius: float
    draws_whole = False  # whether rendering some rows of an image takes as long, and as much memory, as all of them
    given_shape = False  # not trained: an export keeps its lumps
    background: nn.Module  # directions (R, 3), number of views, generator or None -> colours (R, 3)

    @property
    def device(self) -> torch.device:
        """Where the scene is; cameras and points must be there too."""
        tensors = chain(self.parameters(), self.buffers())
        return next((tensor.device for tensor in tensors), torch.device("cpu"))

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
            with_normal: return normals even if the shading needs none.
            generator: source of all randomness of a training render; None is evaluation, which is deterministic.
            rows: image rows to render; H of the output is their number.
            background: used instead of the scene's background.
        """

    @abstractmethod
    def parameter_groups(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """Parameters by name of their learning rate in `optimizer.learning_rates`."""

    def bytes_per_ray(self, with_normal: bool) -> int:
        """Upper bound of the memory of one ray in a render without gradient."""
        return 2**16

    def before_step(self, step: int) -> None:
        """Update acceleration structures before training step `step`."""

    def after_backward(self, step: int, progress: float, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Change gradients or primitives, and their state in the optimizer, after the backward pass of `step`.

        `progress` of the run is in [0, 1].
        """

    def regularizers(self) -> Mapping[str, Term]:
        """Regularisers by name that exist for this scene type only, in addition to IMAGE_TERMS of `loss.py`."""
        return {}

    def figures(self, render: RenderOutput) -> Mapping[str, float]:
        """Statistics of a training render to log, by name."""
        return {}

    def surface(self) -> Mesh | None:
        """Triangle mesh of a scene that has one; None for one whose surface is extracted from its `volume`.

        One without colours gets a texture from `surface_albedo`.
        """
        return None

    def surface_albedo(self, positions: Tensor) -> Tensor:
        """Albedo (N, 3) at points (N, 3) of a surface without colours."""
        raise NotImplementedError

    def volume(self) -> "NeRF | None":
        """Density and albedo of a scene that has them; its surface is where the silhouettes match its renders."""
        return None

    def gaussians(self) -> Gaussians | None:
        """The Gaussians of a scene that consists of them."""
        return None

    def adopted(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The state of a scene that this one starts from, as a state of this scene where the two nearly fit."""
        return state

    def start_from(self, mesh: "RasterMesh") -> None:
        """Take shape and colours of a mesh in scene units.

        Raises:
            UserError: this kind of scene cannot.
        """
        raise UserError(f"{type(self).__name__} cannot begin from a mesh; type scene=mesh")
