"""Score distillation sampling (Poole et al. 2022, Eq. 3): direction = eps_hat(z; y, t) - eps."""

from torch import Tensor

from dreamfusion.distillation.base import Distillation, Step


class SDS(Distillation):
    """Guided noise prediction minus the added noise."""

    def direction(self, step: Step, noisy: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """See `Distillation.direction`."""
        noise_hat, denoised = self.guided(step, noisy)
        return noise_hat - noise, denoised
