"""Classifier score distillation (Yu et al. 2024, arXiv 2310.19415, Eq. 5 and 8): no noise in the direction.

direction = (eps_text - eps_empty) + omega (eps_empty - eps_negative)
"""

from typing import Any

from torch import Tensor

from dreamfusion.diffusion.parameterization import noise_difference
from dreamfusion.distillation.base import Distillation, Step
from dreamfusion.guidance.prior import denoise_steered, empty_branch, null_branch, text_branch
from dreamfusion.schedule import ScheduleLike, schedule


class CSD(Distillation):
    """The gradient of log p(text | image), the implicit classifier, alone; `guidance_scale` has no effect."""

    def __init__(self, negative: ScheduleLike, **settings: Any) -> None:
        """`negative` is omega, a number or a schedule; above 0, the negative prompt is predicted as well.

        Raises:
            ValueError: omega is below 0.
        """
        super().__init__(**settings)
        self.negative = schedule(negative)
        if self.negative.lowest < 0:
            raise ValueError(
                f"distillation.negative is {negative}; it must be 0 or more: type distillation.negative=0.5"
            )

    def direction(self, step: Step, noisy: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """See `Distillation.direction`."""
        omega, conditioning = self.negative(step.progress), step.conditioning
        branches = [text_branch(conditioning), empty_branch(conditioning)]
        if omega > 0:
            branches.append(null_branch(conditioning))
        text, empty, *rest = denoise_steered(self.prior, noisy, step.timestep, conditioning, branches)
        direction = noise_difference(text, empty, step.abar)
        for negative in rest:
            direction = direction + omega * noise_difference(empty, negative, step.abar)
        return direction, text
