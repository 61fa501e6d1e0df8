"""The prior's own score, against priors whose denoising errors are known in closed form."""

import pytest
import torch

from dreamfusion.diffusion.parameterization import alpha_sigma
from dreamfusion.evaluation.prior_score import LEVELS, text_score
from dreamfusion.types import Conditioning


@pytest.fixture
def conditioning(gaussian_prior, cameras_at):
    def make(prior, views, text="a cat"):
        encoded = prior.encode_text([text, ""])
        index = torch.zeros(views, dtype=torch.long)
        return Conditioning(encoded[index], encoded[index + 1], cameras_at([0.0] * views))

    return make


def expected(prior, x, mu):
    """E ||eps* - eps||^2 / pixel = alpha^2 (sigma^2 (x - mu)^2 + ... ) of the exact prior N(mu, s^2), for constant x.

    eps* - eps = sigma (alpha (x - mu) + sigma eps) / v - eps, v = alpha^2 s^2 + sigma^2: mean sigma alpha (x - mu) / v,
    deviation sigma^2 / v - 1 times eps.
    """
    abar = prior.alphas_cumprod[[int(level * len(prior.alphas_cumprod)) for level in LEVELS]]
    alpha, sigma = (a.flatten() for a in alpha_sigma(abar))
    v = abar * prior.s**2 + 1 - abar
    return float(((sigma * alpha * (x - mu) / v) ** 2 + (sigma**2 / v - 1) ** 2).sum())


@pytest.mark.parametrize("x", [0.5, 0.25, -0.5])
def test_the_score_is_the_share_of_the_error_that_the_text_takes_away(gaussian_prior, conditioning, x):
    prior = gaussian_prior()
    images = torch.full((64, 3, 8, 8), (x + 1) / 2)
    score = text_score(prior, images, conditioning(prior, 64))
    assert score == pytest.approx(1 - expected(prior, x, 0.5) / expected(prior, x, 0.0), abs=0.02)


def test_a_text_that_says_nothing_scores_zero_and_every_call_is_the_same(gaussian_prior, conditioning):
    prior, images = gaussian_prior(), torch.rand(2, 3, 16, 16)
    assert text_score(prior, images, conditioning(prior, 2, text="")) == 0
    seen = conditioning(prior, 2)
    assert text_score(prior, images, seen) == text_score(prior, images, seen)


def test_images_are_scored_in_batches_that_a_gpu_can_hold_and_that_change_nothing(
    gaussian_prior, conditioning, monkeypatch
):
    prior, images, sizes = gaussian_prior(), torch.rand(6, 3, 8, 8), []
    seen, denoise = conditioning(prior, 6), prior.denoise
    whole = text_score(prior, images, seen)
    monkeypatch.setattr(prior, "denoise", lambda z, t, branches: sizes.append(len(z)) or denoise(z, t, branches))
    monkeypatch.setattr("dreamfusion.evaluation.prior_score.PIXELS", 2 * 8**2)
    assert text_score(prior, images, seen) == pytest.approx(whole, abs=1e-6)
    assert set(sizes) == {2}
    monkeypatch.setattr("dreamfusion.evaluation.prior_score.PIXELS", 1)
    prior.views = 3  # images that one prediction couples
    text_score(prior, images, seen)
    assert sizes[-1] == 3


def test_a_prior_that_scores_images_by_itself_is_asked_for_the_mean_of_its_scores(gaussian_prior, conditioning):
    class Scorer(gaussian_prior):
        def score(self, latents, said):
            assert said is seen
            return latents.flatten(1).mean(1)

        def denoise(self, *given):
            raise AssertionError("it denoises nothing")

    prior = Scorer()
    seen = conditioning(prior, 2)
    images = torch.stack([torch.full((3, 8, 8), 0.6), torch.full((3, 8, 8), 1.0)])
    assert text_score(prior, images, seen) == pytest.approx((0.2 + 1.0) / 2)


def test_a_negative_prompt_does_not_change_the_score(gaussian_prior, conditioning):
    prior, images = gaussian_prior(), torch.rand(2, 3, 8, 8)
    plain = conditioning(prior, 2)
    other = prior.encode_text(["dark", "dark"])
    with_negative = Conditioning(plain.text, other, plain.cameras, plain.negative)
    assert text_score(prior, images, with_negative) == text_score(prior, images, plain)
