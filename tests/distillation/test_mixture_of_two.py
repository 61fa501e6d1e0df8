"""Every method's expected gradient on a mixture of two Gaussians, from its densities alone.

With L(x) = E_eps[log p_t(alpha x + sigma eps)], the mean of eps_hat over the noise is -(sigma / alpha) dL / dx. In one
dimension the deterministic sampler keeps quantiles, so that an inversion is z_t = F_t^-1(F_0(x)).
"""

import math

import pytest
import torch
from test_methods import AT, EMPTY, METHODS, TEXT, AdaptableGaussian, T, X, gradient
from torch.distributions import Categorical, MixtureSameFamily, Normal

from dreamfusion.diffusion.parameterization import alpha_sigma
from dreamfusion.distillation.weighting import WEIGHTINGS, weight

GAP, DEVIATION, SCALE, ADAPTER = 0.6, 0.3, 3.0, 0.7
INTERVAL = 0.1
INVERTED = {"ism", "sdi", "flowdreamer"}


class MixtureOfTwo(AdaptableGaussian):
    """Each pixel is N(mu - GAP, s^2) or N(mu + GAP, s^2), at equal chances."""

    def posterior(self, noisy, timestep, mu):
        alpha, sigma = alpha_sigma(self.alphas_cumprod[timestep])
        variance = alpha**2 * self.s**2 + sigma**2
        upper = (2 * alpha * GAP * (noisy - alpha * mu) / variance).sigmoid()  # chance of the upper component
        mean = mu + (2 * upper - 1) * GAP
        return (alpha * self.s**2 * noisy + sigma**2 * mean) / variance


def at(t):
    """alpha and sigma at a timestep, in float64."""
    abar = MixtureOfTwo().alphas_cumprod[t].double()
    return abar.sqrt(), (1 - abar).sqrt()


def noised(mu, t):
    """The distribution of z at a timestep."""
    alpha, sigma = at(t)
    means = alpha * (torch.tensor([-GAP, GAP], dtype=torch.float64) + mu)
    deviation = (alpha**2 * DEVIATION**2 + sigma**2).sqrt().expand(2)
    return MixtureSameFamily(Categorical(torch.ones(2, dtype=torch.float64)), Normal(means, deviation))


def mean_noise(mu, t, x=X):
    """E[eps_hat] of the renders x, by quadrature over the noise."""
    alpha, sigma = at(t)
    x = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    eps = torch.linspace(-8, 8, 2001, dtype=torch.float64)
    density = Normal(0.0, 1.0).log_prob(eps).exp() * (eps[1] - eps[0])
    (slope,) = torch.autograd.grad((density * noised(mu, t).log_prob(alpha * x + sigma * eps)).sum(), x)
    return -(sigma / alpha) * slope


def clean(mu, t, z):
    """E[x | z] = (z + sigma^2 d log p_t / dz) / alpha (Tweedie)."""
    alpha, sigma = at(t)
    z = z.clone().requires_grad_()
    (score,) = torch.autograd.grad(noised(mu, t).log_prob(z), z)
    return (z.detach() + sigma**2 * score) / alpha


def inverted(mu, t):
    """z at a timestep on the sampler's path to X: the same quantile."""
    share, low, high = noised(mu, 0).cdf(torch.tensor(X, dtype=torch.float64)), -10.0, 10.0
    for _ in range(60):
        middle = torch.tensor((low + high) / 2, dtype=torch.float64)
        low, high = (middle.item(), high) if noised(mu, t).cdf(middle) < share else (low, middle.item())
    return middle


def expected(name):
    """The gradient without w(t): a difference of noises."""
    alpha, sigma = at(AT)
    guided = mean_noise(EMPTY, AT) + SCALE * (mean_noise(TEXT, AT) - mean_noise(EMPTY, AT))
    match name:
        case "csd":
            return mean_noise(TEXT, AT) - mean_noise(EMPTY, AT)
        case "nfsd":  # the empty text is the negative prompt too
            return SCALE * (mean_noise(TEXT, AT) - mean_noise(EMPTY, AT))
        case "vsd":
            return guided - mean_noise(ADAPTER, AT)
        case "sdi":
            return alpha / sigma * (X - clean(TEXT, AT, inverted(TEXT, AT)))
        case "flowdreamer":
            last, (alpha_last, sigma_last) = T - 1, at(T - 1)
            noise = (inverted(TEXT, last) - alpha_last * X) / sigma_last
            return alpha / sigma * (X - clean(TEXT, AT, alpha * X + sigma * noise))
        case "ism":
            start, (alpha_s, sigma_s) = AT - round(INTERVAL * T), at(AT - round(INTERVAL * T))
            z_s = inverted(EMPTY, start)
            x_s = clean(EMPTY, start, z_s)
            return alpha / sigma * (x_s - clean(TEXT, AT, alpha * x_s + sigma * (z_s - alpha_s * x_s) / sigma_s))
    return guided


@pytest.mark.parametrize("name", METHODS)
def test_the_expected_gradient_on_a_mixture_of_two_gaussians_is_that_of_its_densities(name):
    prior, changes = MixtureOfTwo(DEVIATION), {"guidance_scale": SCALE, "rescale": 0.0}
    if name in INVERTED:  # at scale 1 the path is that of one density
        changes |= {"guidance_scale": 1.0, "stride": 0.001}
        changes |= {"ism": {"interval": INTERVAL}, "sdi": {"eta": 0.0}, "flowdreamer": {}}[name]
        changes |= {} if name == "ism" else {"inversion_scale": 1.0}
    slope, _ = gradient(name, 1 if name in INVERTED else 20000, prior=prior, progress=0.5, **changes)
    value = expected(name).item()
    assert abs(value) > 0.05
    assert slope == pytest.approx(value, rel=3e-2, abs=3e-3)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_expected_gradient_over_a_range_of_timesteps_is_the_mean_of_the_weighted_ones(weighting):
    prior, low, high = MixtureOfTwo(DEVIATION), 0.2, 0.7
    changes = {"min_timestep": low, "max_timestep": high, "weighting": weighting, "guidance_scale": 1.0}
    slope, _ = gradient("sds", 20000, prior=prior, **changes)
    timesteps = range(round(low * T), round(high * T), 5)
    w = weight(weighting, prior.alphas_cumprod[list(timesteps)]).flatten().tolist()
    values = [one * mean_noise(TEXT, t).item() for one, t in zip(w, timesteps, strict=True)]
    undone = weight(weighting, prior.alphas_cumprod[AT : AT + 1]).item()  # by which `gradient` divides
    assert slope * undone == pytest.approx(math.fsum(values) / len(values), rel=3e-2)
