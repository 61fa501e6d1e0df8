"""Conversions between the prediction types of diffusion networks: noise, v and clean image.

Letters (Poole et al. 2022, Sec. 2; variance preserving): x clean image in the prior's space, eps noise,
abar = alphas_cumprod[t], alpha = sqrt(abar), sigma = sqrt(1 - abar), z = alpha x + sigma eps the noisy image.
"""

from torch import Tensor

PREDICTIONS = ("epsilon", "v_prediction", "sample")  # diffusers' names of the prediction types


def alpha_sigma(alphas_cumprod_t: Tensor) -> tuple[Tensor, Tensor]:
    """abar (B,) -> alpha, sigma, each (B, 1, 1, 1)."""
    abar = alphas_cumprod_t[:, None, None, None]
    return abar.sqrt(), (1 - abar).sqrt()


def noise_from_prediction(kind: str, prediction: Tensor, noisy: Tensor, alphas_cumprod_t: Tensor) -> Tensor:
    """Noise eps from the output of a network.

    epsilon:      eps = prediction                                                      (Ho et al. 2020)
    v_prediction: v = alpha eps - sigma x, so eps = sigma z + alpha v                    (Salimans & Ho 2022, App. D)
    sample:       x = prediction, so eps = (z - alpha x) / sigma

    Args:
        kind: one of PREDICTIONS.
        prediction, noisy: (B, C, h, w).
        alphas_cumprod_t: abar at the timestep of each image, (B,), below 1.

    Raises:
        ValueError: an unknown kind; the message lists the known ones.
    """
    alpha, sigma = alpha_sigma(alphas_cumprod_t)
    match kind:
        case "epsilon":
            return prediction
        case "v_prediction":
            return sigma * noisy + alpha * prediction
        case "sample":
            return (noisy - alpha * prediction) / sigma
    raise ValueError(f"unknown prediction type {kind!r}, expected one of {', '.join(PREDICTIONS)}")


def clean_from_noise(noise: Tensor, noisy: Tensor, alphas_cumprod_t: Tensor) -> Tensor:
    """Clean image x = (z - sigma eps) / alpha."""
    alpha, sigma = alpha_sigma(alphas_cumprod_t)
    return (noisy - sigma * noise) / alpha
