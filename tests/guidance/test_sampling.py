"""DDIM sampling compared with the closed form for a Gaussian prior."""

import math

import pytest
import torch

from dreamfusion.diffusion.classifier_free import guide
from dreamfusion.diffusion.ddim import ddim_sample
from dreamfusion.diffusion.parameterization import alpha_sigma
from dreamfusion.guidance.sampling import sample_images, start_noise
from dreamfusion.types import Conditioning, TextEmbedding

MEAN, DEVIATION = 0.3, 0.5


class GaussianPrior:
    """N(mean, s^2) for each number of a 2-channel latent; the mean is 0 without text."""

    resolution, pixel_space = 8, False
    alphas_cumprod = torch.cos((torch.arange(1, 1001) / 1000 + 0.008) / 1.008 * math.pi / 2).square().clamp(min=1e-6)

    def encode_image(self, rgb):
        return rgb[:, :2, ::2, ::2]

    def denoise(self, noisy, timestep, branches):
        """x0* = (alpha s^2 z + sigma^2 mu) / (alpha^2 s^2 + sigma^2)."""
        alpha, sigma = alpha_sigma(self.alphas_cumprod[timestep])
        means = [MEAN * branch.text.mask[:, :1, None, None] for branch in branches]
        variance = alpha**2 * DEVIATION**2 + sigma**2
        return tuple((alpha * DEVIATION**2 * noisy + sigma**2 * mean) / variance for mean in means)

    def decode(self, latents):
        return latents


def conditioning(make_cameras, count):
    text = TextEmbedding(torch.zeros(count, 1, 1), torch.ones(count, 1, dtype=torch.bool))
    return Conditioning(text, TextEmbedding(text.states, ~text.mask), make_cameras([0.0] * count))


@pytest.mark.parametrize("steps", [30, 200])
def test_samples_of_a_gaussian_prior_have_its_mean_and_deviation(make_cameras, steps):
    prior = GaussianPrior()
    start = start_noise(prior, 400, torch.Generator().manual_seed(0))
    images = sample_images(prior, conditioning(make_cameras, 400), start, 1.0, steps)
    assert images.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert images.std().item() == pytest.approx(DEVIATION, rel=0.1 if steps == 30 else 0.03)


@pytest.mark.parametrize("last", [1e-6, 0.0], ids=["a little signal", "zero terminal SNR"])
def test_the_flow_of_a_gaussian_prior_is_the_straight_map_from_noise_to_data(make_cameras, last):
    """eta = 0 is the probability-flow ODE (Song et al. 2021, Sec. 4.3), which maps N(0, 1) to N(mu, s^2) linearly."""
    prior = GaussianPrior()
    prior.alphas_cumprod = torch.cat([prior.alphas_cumprod[:-1], torch.tensor([last])])
    start = start_noise(prior, 4, torch.Generator().manual_seed(0))
    images = sample_images(prior, conditioning(make_cameras, 4), start, 1.0, 500)
    torch.testing.assert_close(images, MEAN + DEVIATION * start, atol=0.03, rtol=0.03)


def test_guidance_scale_zero_is_unconditional_and_two_extrapolates(make_cameras):
    prior = GaussianPrior()
    start = start_noise(prior, 400, torch.Generator().manual_seed(0))
    condition = conditioning(make_cameras, 400)
    without, beyond = (sample_images(prior, condition, start, scale, 100).mean().item() for scale in (0.0, 2.0))
    assert without == pytest.approx(0.0, abs=0.02)
    assert beyond == pytest.approx(2 * MEAN, abs=0.03)


def test_noise_has_the_shape_of_latents_and_a_stable_prefix():
    prior = GaussianPrior()
    noise = start_noise(prior, 3, torch.Generator().manual_seed(1))
    assert noise.shape == (3, 2, 4, 4)
    torch.testing.assert_close(start_noise(prior, 2, torch.Generator().manual_seed(1)), noise[:2])


def test_clipping_keeps_a_pixel_priors_pictures_in_range():
    abar = GaussianPrior.alphas_cumprod
    start = torch.zeros(1, 3, 4, 4)
    for bright in (3.0, -3.0):
        for clip, expected in ((True, bright / 3), (False, bright)):
            found = ddim_sample(lambda noisy, t, value=bright: torch.full_like(noisy, value), start, abar, 4, clip)
            assert found.unique().tolist() == [expected]


def test_guide_follows_the_convention_of_diffusers():
    text, null = torch.tensor([1.0]), torch.tensor([0.25])
    assert [guide(text, null, s).item() for s in (0, 1, 3)] == [0.25, 1.0, 2.5]
