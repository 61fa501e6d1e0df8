"""The loss of Dream Fields (Jain et al. 2022, Eq. 5) as a method: minus the cosine of image and text in CLIP's space.

With unit embeddings of images as latents x, the gradient of -<x, text> is -text: a constant direction.
"""

from typing import Any

from torch import Tensor

from dreamfusion.distillation.base import Distillation, Step
from dreamfusion.guidance.prior import ImageScorer, Prior


class ClipSimilarity(Distillation):
    """Needs `guidance=clip`; there is no noise, so timesteps, guidance scale and rescale have no effect."""

    def __init__(self, prior: Prior, **settings: Any) -> None:
        """See `Distillation`.

        Raises:
            ValueError: the prior does not score images.
        """
        if not isinstance(prior, ImageScorer):
            raise ValueError(f"guidance {prior.name} has no embedding of images; type guidance=clip")
        super().__init__(prior, **settings)

    def direction(self, step: Step, noisy: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """See `Distillation.direction`."""
        text = step.conditioning.text.pooled
        assert text is not None
        return -text[..., None, None], step.latents.detach()
