"""Stage 12: what is asked of the scene beside the prior's opinion (Poole et al. 2022, App. A.2)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dreamfusion.schedule import Schedule, ScheduleLike, schedule
from dreamfusion.types import RenderOutput


@dataclass(frozen=True)
class Regularizer:
    """Weighted sum of the terms; a weight is a number or a schedule over the run's progress, 0 leaves its term out."""

    orientation: ScheduleLike = 0.0
    opacity: ScheduleLike = 0.0
    entropy: ScheduleLike = 0.0
    smoothness: ScheduleLike = 0.0
    _weights: dict[str, Schedule] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        weights = {name: schedule(getattr(self, name)) for name in _TERMS}
        for name, weight in weights.items():
            if min(value for _, value in weight.points) < 0:
                raise ValueError(f"system.regularizer.{name} is {getattr(self, name)}; a weight is at least 0")
        object.__setattr__(self, "_weights", weights)

    def needs_normal(self, progress: float) -> bool:
        """Whether a term that reads the normals has weight now."""
        return self._weights["orientation"](progress) > 0 or self._weights["smoothness"](progress) > 0

    def __call__(self, render: RenderOutput, progress: float) -> dict[str, Tensor]:
        """Each active term, weighted; their sum is added to the distillation's loss."""
        weights = {name: self._weights[name](progress) for name in _TERMS}
        return {name: weight * _TERMS[name](render) for name, weight in weights.items() if weight > 0}


def orientation_loss(render: RenderOutput) -> Tensor:
    """Mean over rays of sum_i sg(w_i) max(0, n_i . v)^2: visible normals face the camera (Ref-NeRF, Eq. 11)."""
    if render.sample_normal is None:
        raise ValueError("the orientation loss needs normals; render with with_normal=True")
    facing_away = (render.sample_normal * render.directions[render.samples.ray]).sum(-1).clamp(min=0)
    return (render.weights.detach() * facing_away.square()).sum() / render.directions.shape[0]


def opacity_loss(render: RenderOutput) -> Tensor:
    """Mean over pixels of sqrt(opacity^2 + 0.01): as little matter as the prior allows."""
    return (render.opacity.square() + 0.01).sqrt().mean()


def entropy_loss(render: RenderOutput) -> Tensor:
    """Mean over pixels of the binary entropy of the opacity, in bits: each pixel is object or background."""
    # The bounds keep the logarithm and its derivative finite.
    p = render.opacity.clamp(1e-3, 1 - 1e-3)
    return -(p * p.log2() + (1 - p) * (1 - p).log2()).mean()


def smoothness_loss(render: RenderOutput) -> Tensor:
    """Mean squared difference of neighbouring pixels' composited normals, where both show the object."""
    if render.normal is None:
        raise ValueError("the smoothness loss needs normals; render with with_normal=True")
    solid = (render.opacity.detach() > 0.5).float()
    across = (render.normal[..., 1:] - render.normal[..., :-1]).square() * solid[..., 1:] * solid[..., :-1]
    down = (render.normal[..., 1:, :] - render.normal[..., :-1, :]).square() * solid[..., 1:, :] * solid[..., :-1, :]
    return (across.sum() + down.sum()) / solid.sum().clamp(min=1)


_TERMS = {
    "orientation": orientation_loss,
    "opacity": opacity_loss,
    "entropy": entropy_loss,
    "smoothness": smoothness_loss,
}


def total(terms: dict[str, Tensor], like: Tensor) -> Tensor:
    """Sum of the terms; 0 where there are none."""
    return torch.stack(list(terms.values())).sum() if terms else torch.zeros_like(like)
