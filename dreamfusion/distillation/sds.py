"""Score distillation sampling (Poole et al. 2022, Eq. 3): direction = eps_hat(z; y, t) - eps.

For the same z, that is (alpha / sigma) (x - x0_hat).
"""

from torch import Tensor

from dreamfusion.diffusion.parameterization import noise_difference
from dreamfusion.distillation.base import Distillation, Step


class SDS(Distillation):
    """Guided noise prediction minus the added noise."""

    def direction(self, step: Step, noisy: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """See `Distillation.direction`."""
        denoised = self.guided(step, noisy)
        return noise_difference(denoised, clean, step.abar), denoised
