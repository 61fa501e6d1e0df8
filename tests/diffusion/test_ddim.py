"""DDIM: its sampler step by step, and the inversion."""

import pytest
import torch

from dreamfusion.diffusion.ddim import ddim_invert, ddim_sample
from dreamfusion.diffusion.parameterization import alpha_sigma

ABAR = torch.tensor([0.9, 0.7, 0.45, 0.2, 0.05])  # far apart, so that no timestep passes for its neighbour


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


def test_an_inversion_starts_at_timestep_zero_and_predicts_at_the_end_of_each_step():
    asked = []

    def predict(noisy, timestep):
        asked.append(timestep.tolist())
        return torch.full_like(noisy, 0.5)

    start, at = torch.full((2, 1, 1, 1), 2.0), torch.tensor([1, 3])
    found = ddim_invert(predict, start, at, ABAR, stride=2)
    assert asked == [[1, 2], [1, 3]]  # images that arrived stay
    # With one noise all along, x0_hat = (z - sigma eps) / alpha is the same after each step.
    clean = (2.0 - 0.1**0.5 * 0.5) / 0.9**0.5
    assert found.flatten().tolist() == pytest.approx([0.7**0.5 * clean + 0.3**0.5 / 2, 0.2**0.5 * clean + 0.8**0.5 / 2])


def test_the_random_part_of_an_inversion_is_eta_times_the_deviation_of_the_ddpm_posterior():
    """That of z_s given z_t and x, by Bayes: 1 / variance = r / (1 - r) + 1 / sigma_s^2 with r = abar_t / abar_s."""
    eta, generator = 0.3, torch.Generator().manual_seed(0)
    ratio = 0.45 / 0.9  # one step from timestep 0 to 2
    deviation = eta * (ratio / (1 - ratio) + 1 / (1 - 0.9)) ** -0.5
    settings = torch.zeros(2, 1, 200, 200), torch.tensor([1, 2]), ABAR
    noisy = ddim_invert(lambda noisy, timestep: torch.zeros_like(noisy), *settings, 2, eta, generator)
    assert noisy[1].std().item() == pytest.approx(deviation, rel=0.02)
    assert noisy.mean().item() == pytest.approx(0, abs=0.01)
    # In two steps the first noise grows by alpha_t / alpha_s; the image that arrived after one gets no second one.
    parts = []
    for before, after in ((0.9, 0.7), (0.7, 0.45)):
        ratio = after / before
        parts.append(eta * (ratio / (1 - ratio) + 1 / (1 - before)) ** -0.5)
    twice = ddim_invert(lambda noisy, timestep: torch.zeros_like(noisy), *settings, 1, eta, generator)
    assert twice[0].std().item() == pytest.approx(parts[0], rel=0.02)
    assert twice[1].std().item() == pytest.approx((parts[0] ** 2 * 0.45 / 0.7 + parts[1] ** 2) ** 0.5, rel=0.02)


@pytest.mark.parametrize(("steps", "at"), [(4, [4, 3, 2, 1]), (2, [4, 2]), (1, [4])])
def test_a_sample_keeps_the_noise_of_its_start_on_evenly_spaced_timesteps(steps, at):
    """For a network that always predicts one image x, z_t = alpha_t x + sigma_t eps with the eps of the start."""
    asked, clean, noise = [], 0.6, -1.5
    alpha, sigma = ABAR.sqrt(), (1 - ABAR).sqrt()

    def predict(noisy, timestep):
        asked.append((timestep.tolist(), noisy.flatten().tolist()))
        return torch.full_like(noisy, clean)

    start = torch.full((2, 1, 1, 1), (alpha[4] * clean + sigma[4] * noise).item())
    found = ddim_sample(predict, start, ABAR, steps, clip=False)
    assert found.flatten().tolist() == pytest.approx([clean] * 2)
    assert [timesteps for timesteps, _ in asked] == [[t, t] for t in at]
    for (t, _), noisy in asked:
        assert noisy == pytest.approx([(alpha[t] * clean + sigma[t] * noise).item()] * 2, rel=1e-5)
