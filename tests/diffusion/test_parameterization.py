import pytest
import torch

from dreamfusion.diffusion.parameterization import (
    PREDICTIONS,
    alpha_sigma,
    clean_from_noise,
    clean_from_prediction,
    flow_alphas_cumprod,
    network_input,
    noise_difference,
    noise_from_clean,
)


@pytest.fixture
def noised():
    generator = torch.Generator().manual_seed(0)
    x, eps = (torch.randn(4, 3, 5, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    abar = torch.tensor([0.999, 0.7, 0.2, 0.004], dtype=torch.float64)
    alpha, sigma = abar.sqrt()[:, None, None, None], (1 - abar).sqrt()[:, None, None, None]
    return x, eps, abar, alpha, sigma


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_a_perfect_prediction_of_each_kind_is_the_clean_image(kind, noised):
    x, eps, abar, alpha, sigma = noised
    predictions = {
        "epsilon": eps,
        "v_prediction": alpha * eps - sigma * x,
        "sample": x,
        "flow_prediction": eps - x,
    }
    prediction = predictions[kind]
    torch.testing.assert_close(clean_from_prediction(kind, prediction, alpha * x + sigma * eps, abar), x)


def test_a_flow_network_gets_the_interpolation_at_its_own_time(noised):
    x, eps, *_ = noised
    time = torch.tensor([0.001, 0.02, 0.5, 0.98], dtype=torch.float64)
    abar = flow_alphas_cumprod(time)
    noisy = abar.sqrt()[:, None, None, None] * x + (1 - abar).sqrt()[:, None, None, None] * eps
    image, flow_time = network_input("flow_prediction", noisy, torch.arange(4), abar)
    s = time[:, None, None, None]
    torch.testing.assert_close(image, (1 - s) * x + s * eps)
    torch.testing.assert_close(flow_time, 4 * time)
    same, timestep = network_input("epsilon", noisy, torch.arange(4), abar)
    assert same is noisy
    assert timestep.tolist() == [0, 1, 2, 3]


def test_noise_and_clean_image_give_each_other(noised):
    x, eps, abar, alpha, sigma = noised
    noisy = alpha * x + sigma * eps
    torch.testing.assert_close(clean_from_noise(eps, noisy, abar), x)
    torch.testing.assert_close(noise_from_clean(x, noisy, abar), eps)
    other = noise_from_clean(x + 1, noisy, abar)
    torch.testing.assert_close(noise_difference(x + 1, x, abar), other - eps)


def test_pure_noise_has_an_image_by_v_and_by_a_flow_and_weights_over_alpha_are_finite(noised):
    """There v = -x, and the velocity of a flow is eps - x."""
    x, eps, *_ = (one.float() for one in noised)
    abar = torch.zeros(4)
    for kind, prediction in {"v_prediction": -x, "flow_prediction": eps - x}.items():
        torch.testing.assert_close(clean_from_prediction(kind, prediction, eps, abar), x, atol=1e-5, rtol=1e-5)
    alpha, sigma = alpha_sigma(abar)
    torch.testing.assert_close(sigma / alpha * noise_difference(x, x + 1, abar), torch.ones_like(x))


def test_an_unknown_prediction_type_lists_the_known_ones():
    with pytest.raises(ValueError, match="'flow', expected one of epsilon, v_prediction, sample"):
        clean_from_prediction("flow", torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2), torch.tensor([0.5]))
