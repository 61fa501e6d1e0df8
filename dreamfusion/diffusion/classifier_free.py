"""Classifier-free guidance: the one formula and the one convention of the scale in this project."""

from __future__ import annotations

from torch import Tensor


def guide(noise_text: Tensor, noise_null: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance, the one convention of this project (Ho & Salimans 2022, as in diffusers).

    eps_hat = eps_null + scale (eps_text - eps_null); scale 1 is the plain conditional prediction, 0 the
    unconditional one. The omega of Poole et al. is scale - 1, and threestudio's plain branch also adds that 1.
    """
    return noise_null + scale * (noise_text - noise_null)
