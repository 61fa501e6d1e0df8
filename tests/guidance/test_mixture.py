"""The mixture prior compared with the gradient of its own density."""

import logging
import math

import pytest
import torch
from options import option, predict

from dreamfusion.types import Branch


def log_density(prior, noisy, t, shares):
    """log p_t(z) of each image, up to a constant, from the definition of the mixture."""
    abar = prior.alphas_cumprod[t].double()
    variance = abar * prior.deviation**2 + 1 - abar
    parts = []
    for mean, share in zip(prior.means.double(), shares, strict=True):
        if share > 0:
            distance = (noisy - abar.sqrt() * mean[:, None, None]).square().flatten(1).sum(1)
            parts.append(torch.log(torch.tensor(share)) - distance / (2 * variance))
    return torch.logsumexp(torch.stack(parts), dim=0)


@pytest.mark.parametrize("t", [100, 500, 950])
@pytest.mark.parametrize(("text", "shares"), [("red or blue", (0.5, 0, 0.5, 0)), ("", (0.25,) * 4)])
def test_the_noise_is_minus_sigma_times_the_score(text, shares, t):
    prior = option("guidance/mixture", resolution=2)
    noisy = torch.randn(3, 3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    log_density(prior, noisy, t, shares).sum().backward()
    timestep = torch.full((3,), t)
    noise = predict(prior, noisy.detach().float(), timestep, prior.encode_text([text] * 3))
    sigma = (1 - prior.alphas_cumprod[t]).sqrt()
    torch.testing.assert_close(noise, (-sigma * noisy.grad).float(), atol=1e-4, rtol=1e-3)


def test_in_pure_noise_the_estimate_is_the_mean_of_the_named_colours_pictures():
    prior = option("guidance/mixture", resolution=2, colors={"red": [1.0, 0.0, 0.25], "blue": [0.0, 0.5, 1.0]})
    abar = prior.alphas_cumprod
    expected = [math.cos(angle) ** 2 for angle in (0.01, 0.01 + 1.55 * 500 / 999, 1.56)]
    assert abar[[0, 500, 999]].tolist() == pytest.approx(expected, rel=1e-4)
    noisy, last = torch.zeros(3, 3, 2, 2), torch.full((3,), len(abar) - 1)
    text = prior.encode_text(["red", "blue", "red or blue"])
    (clean,) = prior.denoise(noisy, last, [Branch(text, None, None)])
    expected = torch.tensor([[1.0, -1.0, -0.5], [-1.0, 0.0, 1.0], [0.0, -0.5, 0.25]])
    torch.testing.assert_close(clean[..., 0, 0], expected, atol=2e-2, rtol=0)
    torch.testing.assert_close(prior.decode(clean)[0, :, 1, 1], torch.tensor([1.0, 0.0, 0.25]), atol=1e-2, rtol=0)


def test_a_prompt_without_a_colour_means_all_and_says_so(caplog):
    prior = option("guidance/mixture")
    with caplog.at_level(logging.WARNING):
        prior.warn_if_unknown("a cat")
    assert "names none of the mixture's colours: red, green, blue, yellow" in caplog.text
    assert prior.encode_text(["a cat", "Red"]).states[:, 0].tolist() == [[0.25] * 4, [1, 0, 0, 0]]


def test_a_mixture_needs_colours_and_a_deviation():
    with pytest.raises(ValueError, match=r"guidance\.deviation is 0; a mixture needs at least one colour"):
        option("guidance/mixture", deviation=0)
