"""Variational score distillation (Wang et al. 2023, ProlificDreamer, arXiv 2305.16213, Eq. 9 and Alg. 1).

direction = eps_hat(z; y, t) - eps_phi(z; y, c, t), where eps_phi is the prior with a low-rank adapter that learns the
distribution of the renders from camera c, in the same step, by the loss of diffusion models.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dreamfusion.diffusion.parameterization import noise_difference
from dreamfusion.distillation.base import Distillation, Step
from dreamfusion.distillation.weighting import min_snr
from dreamfusion.guidance.prior import Adaptable, text_branch
from dreamfusion.randomness import chance
from dreamfusion.schedule import check_share


class VSD(Distillation):
    """The adapter is trained with, saved with and belongs to the run; the prior itself stays as it is."""

    recommended_scale = "sample_scale"

    def __init__(self, rank: int, learning_rate: float | None, camera_dropout: float, **settings: Any) -> None:
        """Add an adapter of this rank to the prior; `camera_dropout` is the share of its steps without camera.

        Raises:
            ValueError: the prior cannot be adapted, or a setting is out of range.
        """
        super().__init__(**settings)
        check_share("distillation.camera_dropout", camera_dropout, 0.1)
        if learning_rate is not None and learning_rate <= 0:
            raise ValueError(f"distillation.learning_rate is {learning_rate}; it must be above 0, or null")
        if not isinstance(self.prior, Adaptable):
            raise ValueError(f"distillation=vsd trains an adapter, which guidance={self.prior.name} does not have")
        self.adapted: Adaptable = self.prior
        self.adapter = self.adapted.adapt(rank)
        self.learning_rate = self.adapted.adapter_learning_rate if learning_rate is None else learning_rate
        self.camera_dropout = camera_dropout

    def direction(self, step: Step, noisy: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """See `Distillation.direction`."""
        denoised = self.guided(step, noisy)
        with torch.no_grad():
            rendered = self.adapted.denoise_adapted(noisy, step.timestep, text_branch(step.conditioning))
        return noise_difference(denoised, self.clipped(rendered), step.abar), denoised

    def auxiliary_losses(self, step: Step) -> Mapping[str, Tensor]:
        """The adapter's loss on the renders at a timestep from all of [0, T)."""
        timestep = self.draw_timestep(len(step.latents), 0.0, 1.0, step.generator)
        untold = chance(self.camera_dropout, step.generator)
        branch = replace(text_branch(step.conditioning), unconditional=untold)
        step = replace(step, timestep=timestep, abar=self.prior.alphas_cumprod[timestep])
        noisy, clean = self.perturb(step)
        error = self.adapted.denoise_adapted(noisy, timestep, branch) - clean
        # One overflow of a half-precision network costs the adapter one step, not the run.
        error = torch.where(error.isfinite().flatten(1).all(1)[:, None, None, None], error, 0.0)
        return {"adapter": (min_snr(step.abar) * error**2).mean()}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """See `Distillation.parameter_groups`."""
        return [{"name": "adapter", "params": list(self.adapter.parameters()), "lr": self.learning_rate}]
