"""HiFA (Zhu et al. 2024, arXiv 2305.18766, Eq. 6 to 9): SDS with a second residual in image space.

The image term is image_weight w(t) (alpha / sigma) (rgb - decode(x0_hat)) at the size of the decoded image, so that its
weight does not depend on the size of the render; its gradient does not pass through the encoder. The timestep falls
with the square root of progress (`annealing=sqrt`).
"""

from typing import Any

from torch import Tensor

from dreamfusion.diffusion.parameterization import alpha_sigma
from dreamfusion.distillation.base import Step
from dreamfusion.distillation.sds import SDS
from dreamfusion.distillation.weighting import weight
from dreamfusion.image import resize


class HiFA(SDS):
    """SDS plus the image residual."""

    def __init__(self, image_weight: float, **settings: Any) -> None:
        """`image_weight` multiplies the image residual; 0.01 in the field's implementations."""
        super().__init__(**settings)
        self.image_weight = image_weight

    def image_gradient(self, step: Step, denoised: Tensor) -> Tensor | None:
        """See `Distillation.image_gradient`."""
        alpha, sigma = alpha_sigma(step.abar)
        target = self.prior.decode(denoised)
        residual = resize(step.rgb.detach(), target.shape[-1]) - target
        return self.image_weight * weight(self.weighting, step.abar) * alpha / sigma * residual / len(residual)
