"""Classifier-free guidance (Ho & Salimans 2022), with the scale convention of diffusers, and perp-neg's projection."""

from torch import Tensor


def guide(text: Tensor, null: Tensor, scale: float) -> Tensor:
    """null + scale (text - null), for estimates of the noise as for those of the clean image: they are affine in it.

    Scale 1 is the conditional prediction, 0 the unconditional one. The omega of Poole et al. 2022 is scale - 1.
    """
    return null + scale * (text - null)


def perpendicular(vector: Tensor, direction: Tensor) -> Tensor:
    """The component of `vector` that is perpendicular to `direction`, per image (B, C, h, w)."""
    along = (vector * direction).sum((1, 2, 3), keepdim=True)
    # The bound keeps an image without a direction (equal texts) finite.
    return vector - along / direction.square().sum((1, 2, 3), keepdim=True).clamp(min=1e-6) * direction
