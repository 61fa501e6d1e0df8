"""Classifier-free guidance (Ho & Salimans 2022), with the scale convention of diffusers."""

from torch import Tensor


def guide(noise_text: Tensor, noise_null: Tensor, scale: float) -> Tensor:
    """eps_hat = eps_null + scale (eps_text - eps_null).

    Scale 1 is the conditional prediction, 0 the unconditional one. The omega of Poole et al. 2022 is scale - 1.
    """
    return noise_null + scale * (noise_text - noise_null)
