"""Variational score distillation (Wang et al. 2023, ProlificDreamer, arXiv 2305.16213, Eq. 9 and Alg. 1).

direction = eps_hat(z; y, t) - eps_phi(z; y, c, t), where eps_phi is the prior with a low-rank adapter that learns the
distribution of the renders from camera c, in the same step, by the loss of diffusion models.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dreamfusion.diffusion.parameterization import alpha_sigma, noise_difference
from dreamfusion.distillation.base import Distillation, Step
from dreamfusion.guidance.prior import Adaptable, text_branch
from dreamfusion.randomness import chance

SNR_LIMIT = 5.0  # of the weight min(SNR, limit) on the error of x0_hat, gamma of Hang et al. 2023 (Min-SNR)


class VSD(Distillation):
    """The adapter is trained with, saved with and belongs to the run; the prior itself stays as it is."""

    recommended_scale = "sample_scale"

    def __init__(self, rank: int, learning_rate: float | None, camera_dropout: float, **settings: Any) -> None:
        """Add the adapter to the prior.

        Args:
            rank: of the adapter's matrices.
            learning_rate: of the adapter; None: the prior's recommendation.
            camera_dropout: share of adapter steps without camera.

        Raises:
            ValueError: the prior cannot be adapted.
        """
        super().__init__(**settings)
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
        return noise_difference(denoised, rendered, step.abar), denoised

    def auxiliary_losses(self, step: Step) -> Mapping[str, Tensor]:
        """The adapter's loss on the renders at a timestep from all of [0, T)."""
        generator, branch = step.generator, text_branch(step.conditioning)
        timestep = self.draw_timestep(len(step.latents), 0.0, 1.0, generator)
        if chance(self.camera_dropout, generator):
            branch = replace(branch, unconditional=True)
        step = replace(step, timestep=timestep, abar=self.prior.alphas_cumprod[timestep])
        noisy, clean = self.perturb(step)
        error = self.adapted.denoise_adapted(noisy, timestep, branch) - clean
        alpha, sigma = alpha_sigma(step.abar)
        return {"adapter": ((alpha / sigma).square().clamp(max=SNR_LIMIT) * error**2).mean()}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """See `Distillation.parameter_groups`."""
        return [{"params": list(self.adapter.parameters()), "lr": self.learning_rate}]
