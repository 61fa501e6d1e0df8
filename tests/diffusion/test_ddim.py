"""Inversion of the deterministic sampler."""

import torch

from dreamfusion.diffusion.ddim import ddim_invert
from dreamfusion.diffusion.parameterization import alpha_sigma


def test_an_inversion_does_not_magnify_what_a_network_gets_wrong_of_a_clean_image():
    """An error of 0.05 over the sigma of the first timestep, 0.01, would be a noise of 5."""
    abar = torch.linspace(0.01, 1.56, 1000, dtype=torch.float64).cos().square().float()
    clean, error = torch.zeros(2, 3, 4, 4), 0.05

    def predict(noisy, timestep):
        alpha, sigma = alpha_sigma(abar[timestep])
        return (noisy - alpha * (clean + error)) / sigma

    at = torch.tensor([400, 800])
    noisy = ddim_invert(predict, clean, at, abar, stride=100)
    assert (noisy / alpha_sigma(abar[at])[1]).abs().max() < 1
