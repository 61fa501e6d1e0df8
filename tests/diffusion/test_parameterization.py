import pytest
import torch

from dreamfusion.diffusion.parameterization import (
    PREDICTIONS,
    clean_from_noise,
    flow_alphas_cumprod,
    network_input,
    noise_from_prediction,
)


@pytest.fixture
def noised():
    generator = torch.Generator().manual_seed(0)
    x, eps = (torch.randn(4, 3, 5, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    abar = torch.tensor([0.999, 0.7, 0.2, 0.004], dtype=torch.float64)
    alpha, sigma = abar.sqrt()[:, None, None, None], (1 - abar).sqrt()[:, None, None, None]
    return x, eps, abar, alpha, sigma


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_a_perfect_prediction_of_each_kind_is_the_noise_that_was_added(kind, noised):
    x, eps, abar, alpha, sigma = noised
    predictions = {
        "epsilon": eps,
        "v_prediction": alpha * eps - sigma * x,
        "sample": x,
        "flow_prediction": eps - x,
    }
    prediction = predictions[kind]
    torch.testing.assert_close(noise_from_prediction(kind, prediction, alpha * x + sigma * eps, abar), eps)


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


def test_the_noise_gives_back_the_clean_image(noised):
    x, eps, abar, alpha, sigma = noised
    torch.testing.assert_close(clean_from_noise(eps, alpha * x + sigma * eps, abar), x)


def test_an_unknown_prediction_type_lists_the_known_ones():
    with pytest.raises(ValueError, match="'flow', expected one of epsilon, v_prediction, sample"):
        noise_from_prediction("flow", torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2), torch.tensor([0.5]))
