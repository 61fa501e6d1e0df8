"""Conversions between the prediction types of diffusion networks: noise, v, clean image and flow velocity.

Letters (Poole et al. 2022, Sec. 2; variance preserving): x clean image in the prior's space, eps noise,
abar = alphas_cumprod[t], alpha = sqrt(abar), sigma = sqrt(1 - abar), z = alpha x + sigma eps the noisy image.

A rectified flow (Liu et al. 2023) has time s in [0, 1] and x_s = (1 - s) x + s eps. Divided by c = |(1 - s, s)| it is
variance preserving: alpha = (1 - s) / c, sigma = s / c, z = x_s / c, and therefore c = 1 / (alpha + sigma).
"""

from torch import Tensor

# Zero terminal SNR has alpha = 0. 1e-6 in its place is below the rounding of z and keeps weights over alpha finite.
LEAST_ABAR = 1e-12
PREDICTIONS = ("epsilon", "v_prediction", "sample", "flow_prediction")  # diffusers' names of the prediction types


def alpha_sigma(alphas_cumprod_t: Tensor) -> tuple[Tensor, Tensor]:
    """abar (B,) -> alpha, sigma, each (B, 1, 1, 1); alpha is at least 1e-6, see LEAST_ABAR."""
    abar = alphas_cumprod_t.clamp(min=LEAST_ABAR)[:, None, None, None]
    return abar.sqrt(), (1 - abar).sqrt()


def flow_alphas_cumprod(time: Tensor) -> Tensor:
    """abar of a rectified flow at the times s in [0, 1], any shape."""
    return (1 - time) ** 2 / ((1 - time) ** 2 + time**2)


def network_input(kind: str, noisy: Tensor, timestep: Tensor, alphas_cumprod: Tensor) -> tuple[Tensor, Tensor]:
    """The image and the time that a network of this kind takes for z (B, C, h, w) at `timestep` (B,) of T.

    Those given, but for a flow x_s = c z and T s.
    """
    if kind != "flow_prediction":
        return noisy, timestep
    alpha, sigma = alpha_sigma(alphas_cumprod[timestep])
    return noisy / (alpha + sigma), len(alphas_cumprod) * (sigma / (alpha + sigma)).flatten()


def clean_from_prediction(kind: str, prediction: Tensor, noisy: Tensor, alphas_cumprod_t: Tensor) -> Tensor:
    """Clean image x from the output of a network; for v and flows without a division by alpha.

    epsilon:      eps = prediction, so x = (z - sigma eps) / alpha                       (Ho et al. 2020)
    v_prediction: v = alpha eps - sigma x, so x = alpha z - sigma v                      (Salimans & Ho 2022, App. D)
    sample:       x = prediction
    flow_prediction: v = eps - x, so x = x_s - s v = (z - sigma v) / (alpha + sigma)

    Args:
        kind: one of PREDICTIONS.
        prediction, noisy: (B, C, h, w).
        alphas_cumprod_t: abar at the timestep of each image, (B,).

    Raises:
        ValueError: an unknown kind; the message lists the known ones.
    """
    alpha, sigma = alpha_sigma(alphas_cumprod_t)
    match kind:
        case "epsilon":
            return clean_from_noise(prediction, noisy, alphas_cumprod_t)
        case "v_prediction":
            return alpha * noisy - sigma * prediction
        case "sample":
            return prediction
        case "flow_prediction":
            return (noisy - sigma * prediction) / (alpha + sigma)
    raise ValueError(f"unknown prediction type {kind!r}, expected one of {', '.join(PREDICTIONS)}")


def clean_from_noise(noise: Tensor, noisy: Tensor, alphas_cumprod_t: Tensor) -> Tensor:
    """Clean image x = (z - sigma eps) / alpha."""
    alpha, sigma = alpha_sigma(alphas_cumprod_t)
    return (noisy - sigma * noise) / alpha


def noise_from_clean(clean: Tensor, noisy: Tensor, alphas_cumprod_t: Tensor) -> Tensor:
    """Noise eps = (z - alpha x) / sigma; abar is below 1."""
    alpha, sigma = alpha_sigma(alphas_cumprod_t)
    return (noisy - alpha * clean) / sigma


def noise_difference(clean: Tensor, other: Tensor, alphas_cumprod_t: Tensor) -> Tensor:
    """eps of `clean` minus eps of `other`, for the same z: (alpha / sigma) (other - clean).

    Unlike the difference of two noises, exact where alpha is small and a weight divides by it.
    """
    alpha, sigma = alpha_sigma(alphas_cumprod_t)
    return alpha / sigma * (other - clean)
