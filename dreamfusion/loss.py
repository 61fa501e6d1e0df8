"""Stage 12: weighted regularisers, added to the distillation loss (Poole et al. 2022, App. A.2)."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from dreamfusion.ops.composite import accumulate
from dreamfusion.scene.base import Scene, Term
from dreamfusion.scene.nerf.renderer import RayRender
from dreamfusion.schedule import ScheduleLike, schedule
from dreamfusion.types import RenderOutput

SOLID = 0.5  # opacity above which a ray meets a surface


class Regularizer:
    """Weighted regularisers on images (IMAGE_TERMS, and those of the settings) and on the scene
    (`Scene.regularizers`)."""

    def __init__(
        self, terms: Mapping[str, Term | Callable[[RenderOutput], Tensor]] | None = None, **weights: ScheduleLike
    ) -> None:
        """Name the terms and their weights.

        Args:
            terms: further terms by name, from a render to a scalar, for all kinds of scenes.
            weights: by name of the term: numbers, or schedules over the run's progress; 0 disables a term.

        Raises:
            ValueError: a negative weight, or a further term that has no weight or the name of another.
        """
        further = terms or {}
        self.further = {name: term if isinstance(term, Term) else Term(term) for name, term in further.items()}
        self.weights = {name: schedule(weight) for name, weight in weights.items()}
        for name, weight in self.weights.items():
            if weight.lowest < 0:
                raise ValueError(f"system.regularizer.{name} is {weights[name]}; a weight must be at least 0")
        for name in self.further:
            if name in IMAGE_TERMS:
                raise ValueError(f"system.regularizer.terms.{name} has the name of another term; choose another name")
            if name not in self.weights:
                raise ValueError(f"system.regularizer has no weight for {name!r}; type +system.regularizer.{name}=1.0")

    def terms(self, scene: Scene) -> Mapping[str, Term]:
        """Terms with a weight that is above 0 at some time.

        Raises:
            ValueError: a weight above 0 for a term that does not exist for this scene, or two terms of one name.
        """
        own = scene.regularizers()
        if twice := self.further.keys() & own.keys():
            name = min(twice)
            raise ValueError(
                f"system.regularizer.terms.{name} has the name of a term of the scene; choose another name"
            )
        known = {**IMAGE_TERMS, **self.further, **own}
        used = [name for name, weight in self.weights.items() if name in known or weight.highest > 0]
        unknown = [name for name in used if name not in known]
        if unknown:
            raise ValueError(f"system.regularizer has no term {unknown[0]!r} for this scene; it has {', '.join(known)}")
        return {name: known[name] for name in used}

    def needs_normal(self, scene: Scene, progress: float) -> bool:
        """Whether a term that reads normals has a weight above 0 at `progress`."""
        return any(term.needs_normal and self.weights[name](progress) > 0 for name, term in self.terms(scene).items())

    def __call__(self, scene: Scene, render: RenderOutput, progress: float) -> dict[str, Tensor]:
        """Weighted value of each active term of `render`; their sum is added to the distillation loss."""
        terms = self.terms(scene)
        active = {name: self.weights[name](progress) for name in terms}
        return {name: weight * terms[name].penalty(render) for name, weight in active.items() if weight > 0}


def opacity_loss(render: RenderOutput) -> Tensor:
    """Mean over pixels of sqrt(opacity^2 + 0.01): favours empty space."""
    return (render.opacity.square() + 0.01).sqrt().mean()


def entropy_loss(render: RenderOutput) -> Tensor:
    """Mean over pixels of the binary entropy of the opacity, in bits: favours opacities near 0 or 1."""
    # The bounds keep the logarithm and its derivative finite.
    p = render.opacity.clamp(1e-3, 1 - 1e-3)
    return -(p * p.log2() + (1 - p) * (1 - p).log2()).mean()


def smoothness_loss(render: RenderOutput) -> Tensor:
    """Mean squared difference of the composited normals of neighbouring solid pixels."""
    if render.normal is None:
        raise ValueError("the smoothness loss needs normals; render with with_normal=True")
    solid = (render.opacity.detach() > SOLID).float()
    across = (render.normal[..., 1:] - render.normal[..., :-1]).square() * solid[..., 1:] * solid[..., :-1]
    down = (render.normal[..., 1:, :] - render.normal[..., :-1, :]).square() * solid[..., 1:, :] * solid[..., :-1, :]
    return (across.sum() + down.sum()) / solid.sum().clamp(min=1)


def depth_variance_loss(render: RenderOutput) -> Tensor:
    """Mean over solid rays of sum_i w_i (t_i - t)^2 / sum_i w_i, with the mean t: one thin surface on each ray.

    In squared scene units (Zhu et al. 2024, HiFA, Sec. 3.4). A ray counts where its opacity is above SOLID. 0 for
    scenes that are not sampled along the rays.
    """
    if not isinstance(render, RayRender):
        return render.opacity.new_zeros(())
    samples, opacity = render.samples, render.opacity.flatten()
    solid = (opacity.detach() > SOLID).float()
    mean = (render.depth.flatten() / opacity.clamp(min=SOLID)).detach()  # the variance is least there: no gradient
    away = (samples.t_start + samples.t_end) / 2 - mean[samples.ray]
    spread, _, _ = accumulate(render.weights, [away.square()[:, None]], samples)
    return (solid * spread[:, 0] / opacity.clamp(min=SOLID)).sum() / solid.sum().clamp(min=1)


IMAGE_TERMS = {
    "opacity": Term(opacity_loss),
    "entropy": Term(entropy_loss),
    "smoothness": Term(smoothness_loss, needs_normal=True),
    "depth_variance": Term(depth_variance_loss),
}


def total(terms: dict[str, Tensor], like: Tensor) -> Tensor:
    """Sum of the terms; 0, on the device of `like`, if there are none."""
    return torch.stack(list(terms.values())).sum() if terms else torch.zeros_like(like)
