"""SDS compared with the closed form for Gaussian priors."""

import pytest
import torch
from options import make_method, make_sds, predict
from torch.nn import functional as F

from dreamfusion.diffusion.classifier_free import guide
from dreamfusion.distillation.base import rescale_clean
from dreamfusion.distillation.weighting import WEIGHTINGS, min_snr, weight
from dreamfusion.image import resize
from dreamfusion.types import Cameras, Conditioning, TextEmbedding

T = 1000
SIZE = 4


class GaussianPrior:
    """The exact prior N(mu, s^2) of every pixel; the text's only state is mu.

    x0*(z, t) = (alpha s^2 z + sigma^2 mu) / (alpha^2 s^2 + sigma^2).
    """

    name, resolution, guidance_scale, weighting = "gaussian", SIZE, 1.0, "sigma2"
    views = 1
    pixel_space = False  # nothing is clipped: the closed forms hold

    def __init__(self, s=0.5, channels=3):
        self.s = s
        self.channels = channels
        self.alphas_cumprod = torch.cos(torch.linspace(0.01, 1.55, T, dtype=torch.float64)).square().float()
        self.calls = []
        self.device = "cpu"

    def to(self, device):
        self.device = device
        return self

    def encode_image(self, rgb):
        return rgb * 2 - 1

    def denoise(self, noisy, timestep, branches):
        self.calls.append((noisy, timestep, branches))
        means = [branch.text.states[:, 0, 0][:, None, None, None] for branch in branches]
        return tuple(self.posterior(noisy, timestep, mu) for mu in means)

    def posterior(self, noisy, timestep, mu):
        abar = self.alphas_cumprod[timestep][:, None, None, None]
        return (abar.sqrt() * self.s**2 * noisy + (1 - abar) * mu) / (abar * self.s**2 + 1 - abar)


def embedding(*mu):
    return TextEmbedding(torch.tensor(mu).view(-1, 1, 1), torch.ones(len(mu), 1, dtype=torch.bool))


def conditioning(text, negative):
    b = len(text)
    cameras = Cameras(
        camera_to_world=torch.zeros(b, 3, 4),
        fov=torch.full((b,), 40.0),
        azimuth=torch.arange(b) * 30.0,
        elevation=torch.zeros(b),
        distance=torch.full((b,), 3.0),
        light=torch.zeros(b, 3),
        height=SIZE,
        width=SIZE,
    )
    return Conditioning(embedding(*text), embedding(*negative), cameras)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def image(b, size=SIZE, seed=1):
    return torch.rand(b, 3, size, size, generator=seeded(seed)).requires_grad_()


def drawn(prior, shape, low, high):
    """t and eps as SDS draws them from `seeded()`."""
    generator = seeded()
    t = ((low + (high - low) * torch.rand(shape[0], generator=generator)) * T).long()
    return t, torch.randn(shape, generator=generator), prior.alphas_cumprod[t][:, None, None, None]


def test_the_expected_gradient_on_a_gaussian_prior_is_the_closed_form():
    prior, views, t = GaussianPrior(s=0.5), 20000, 400
    sds = make_sds(prior, guidance_scale=1.0, min_timestep=t / T, max_timestep=t / T)
    rgb = torch.full((views, 3, SIZE, SIZE), 0.7, requires_grad=True)
    sds(rgb, conditioning([-0.2] * views, [0.0] * views), 0.0, seeded()).loss.backward()
    abar = prior.alphas_cumprod[t]
    alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
    x = 2 * 0.7 - 1
    expected = sigma**2 * sigma * alpha * (x - -0.2) / (alpha**2 * prior.s**2 + sigma**2)
    # The sum over views is the mean of a view's gradient; d x / d rgb = 2. Noise is averaged over all pixels as well.
    assert rgb.grad.sum(0).mean().item() / 2 == pytest.approx(expected.item(), rel=5e-3)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("size", [SIZE, 3 * SIZE, 2], ids=["same", "down", "up"])
def test_the_surrogates_gradient_is_the_published_one_through_the_resize(weighting, size):
    prior, rgb = GaussianPrior(), image(2, size)
    sds = make_sds(prior, guidance_scale=3.0, weighting=weighting)
    sds(rgb, conditioning([0.5, -0.5], [0.1, 0.2]), 0.0, seeded()).loss.backward()

    t, eps, abar = drawn(prior, (2, 3, SIZE, SIZE), 0.02, 0.98)
    other = image(2, size)
    small = other if size == SIZE else F.interpolate(other, (SIZE, SIZE), mode="bilinear", antialias=True)
    latents = 2 * small - 1
    z = (abar.sqrt() * latents + (1 - abar).sqrt() * eps).detach()
    eps_text, eps_null = (predict(prior, z, t, embedding(*mu)) for mu in ((0.5, -0.5), (0.1, 0.2)))
    eps_hat = eps_null + 3.0 * (eps_text - eps_null)
    w = {
        "sigma2": 1 - abar,
        "uniform": torch.ones_like(abar),
        "alpha_sigma2": abar.sqrt() * (1 - abar),
        "clean": (1 - abar).sqrt(),
        "reconstruction": ((1 - abar) / abar).sqrt(),
        "flow": 1 + ((1 - abar) / abar).sqrt(),
    }[weighting]
    latents.backward(w * (eps_hat - eps) / 2)
    torch.testing.assert_close(rgb.grad, other.grad)


def test_clean_weighting_is_the_gradient_alpha_times_render_minus_clean_estimate():
    prior, rgb = GaussianPrior(), image(2)
    sds = make_sds(prior, guidance_scale=4.0, weighting="clean")
    output = sds(rgb, conditioning([0.5, 0.5], [0.0, 0.0]), 0.0, seeded())
    output.loss.backward()
    x = (2 * rgb - 1).detach()
    alpha = (1 - output.noise_level.square()).sqrt()[:, None, None, None]
    torch.testing.assert_close(rgb.grad, 2 * alpha * (x - output.denoised) / 2, atol=1e-4, rtol=1e-4)


def test_reconstruction_weighting_is_the_gradient_render_minus_clean_estimate():
    prior, rgb = GaussianPrior(), image(2)
    out = make_sds(prior, weighting="reconstruction")(rgb, conditioning([0.3, 0.1], [0.0, 0.0]), 0.0, seeded())
    out.loss.backward()
    torch.testing.assert_close(rgb.grad, 2 * (2 * rgb.detach() - 1 - out.denoised) / 2, atol=1e-4, rtol=1e-4)


def test_a_pixel_space_prior_clips_x0_and_its_gradient():
    prior, rgb = GaussianPrior(), image(2)
    prior.pixel_space = True
    sds = make_sds(prior, guidance_scale=50.0, weighting="reconstruction")
    out = sds(rgb, conditioning([0.9, -0.9], [0.0, 0.0]), 0.0, seeded())
    out.loss.backward()
    assert out.denoised.abs().max() == 1
    torch.testing.assert_close(rgb.grad, 2 * (2 * rgb.detach() - 1 - out.denoised) / 2, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("pixel_space", [False, True])
def test_a_user_may_clip_x0_or_not_whatever_the_prior(pixel_space):
    prior, largest = GaussianPrior(), []
    prior.pixel_space = pixel_space
    for clip in (True, False):
        out = make_sds(prior, guidance_scale=50.0, clip=clip)(image(1), conditioning([0.9], [0.0]), 0.0, seeded())
        largest.append(out.denoised.abs().max().item())
    assert largest[0] == 1 < largest[1]


def test_the_denoised_image_is_the_posterior_mean_of_the_gaussian():
    prior, rgb = GaussianPrior(s=0.3), image(3)
    output = make_sds(prior)(rgb, conditioning([0.4] * 3, [0.0] * 3), 0.0, seeded())
    t, eps, abar = drawn(prior, rgb.shape, 0.02, 0.98)
    z = abar.sqrt() * (2 * rgb.detach() - 1) + (1 - abar).sqrt() * eps
    expected = (abar.sqrt() * prior.s**2 * z + (1 - abar) * 0.4) / (abar * prior.s**2 + 1 - abar)
    torch.testing.assert_close(output.denoised, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(output.timestep, t)
    torch.testing.assert_close(output.noise_level, (1 - abar).sqrt().flatten())


def test_gradient_norm_is_the_norm_of_the_gradient_in_the_priors_space():
    rgb = image(2)
    output = make_sds(GaussianPrior())(rgb, conditioning([0.4] * 2, [0.0] * 2), 0.0, seeded())
    output.loss.backward()
    torch.testing.assert_close(output.gradient_norm, rgb.grad.flatten(1).norm(dim=1) / 2)


def test_scale_one_is_the_text_scale_zero_the_negative_and_the_papers_omega_is_scale_minus_one():
    text, null = torch.randn(2, 1, 3, 2, 2, generator=seeded())
    torch.testing.assert_close(guide(text, null, 1.0), text)
    torch.testing.assert_close(guide(text, null, 0.0), null)
    omega = 100.0
    torch.testing.assert_close(guide(text, null, omega + 1), (1 + omega) * text - omega * null)


def test_guidance_between_two_equal_texts_changes_nothing_at_any_scale():
    prior = GaussianPrior()
    gradients = []
    for scale in (1.0, 50.0):
        rgb = image(1)
        make_sds(prior, guidance_scale=scale)(rgb, conditioning([0.3], [0.3]), 0.0, seeded()).loss.backward()
        gradients.append(rgb.grad)
    torch.testing.assert_close(*gradients)


def test_text_and_negative_are_predicted_in_one_call_and_the_negative_is_unconditional():
    prior = GaussianPrior()
    views = conditioning([1.0, 2.0, 3.0], [-1.0, -2.0, -3.0])
    make_sds(prior, guidance_scale=2.0)(image(3), views, 0.0, seeded())
    ((noisy, _, (text, null)),) = prior.calls
    assert text.text.states.flatten().tolist() == [1, 2, 3]
    assert null.text.states.flatten().tolist() == [-1, -2, -3]
    assert text.cameras.azimuth.tolist() == [0, 30, 60]
    assert (text.unconditional, null.unconditional) == (False, True)
    assert not noisy.requires_grad


def test_at_scale_one_the_negative_is_not_predicted_and_nothing_else_changes():
    gradients = []
    for scale in (1.0, 1.0 + 1e-6):
        prior, rgb = GaussianPrior(), image(3)
        views = conditioning([1.0, 2.0, 3.0], [-1.0, -2.0, -3.0])
        make_sds(prior, guidance_scale=scale)(rgb, views, 0.0, seeded()).loss.backward()
        gradients.append(rgb.grad)
        ((_, _, branches),) = prior.calls
        assert len(branches) == (1 if scale == 1 else 2)
        assert branches[0].cameras is not None
    torch.testing.assert_close(*gradients)


def test_the_same_seed_gives_the_same_gradient_and_another_seed_another():
    gradients = []
    for seed in (3, 3, 4):
        rgb = image(2)
        make_sds(GaussianPrior())(rgb, conditioning([0.3] * 2, [0.0] * 2), 0.0, seeded(seed)).loss.backward()
        gradients.append(rgb.grad)
    assert torch.equal(gradients[0], gradients[1])
    assert not torch.equal(gradients[0], gradients[2])


@pytest.mark.parametrize(("progress", "low", "high"), [(0.0, 20, 980), (0.5, 20, 740), (1.0, 20, 500)])
def test_timesteps_fill_the_range_of_the_schedule(progress, low, high):
    sds = make_sds(GaussianPrior(), min_timestep=0.02, max_timestep=[[0, 0.98], [1, 0.5]])
    views = 4000
    t = sds(image(views), conditioning([0.0] * views, [0.0] * views), progress, seeded()).timestep
    assert low <= t.min() < low + 5
    assert high - 5 < t.max() < high
    assert t.double().mean().item() == pytest.approx((low + high) / 2, abs=4 * (high - low) / (12 * views) ** 0.5)


def test_the_guidance_scale_follows_its_schedule_and_defaults_to_the_priors():
    prior = GaussianPrior()
    assert make_sds(prior).guidance_scale(0.7) == prior.guidance_scale
    assert make_sds(prior).weighting == prior.weighting
    assert make_sds(prior, guidance_scale=[[0, 10], [1, 20]]).guidance_scale(0.5) == 15


def test_full_rescale_gives_the_guided_image_the_contrast_of_the_unguided_one():
    text, guided = torch.randn(2, 3, 3, 8, 8, generator=seeded()) * torch.tensor([0.5, 4.0]).view(2, 1, 1, 1, 1)
    deviation = lambda x: x.std((1, 2, 3))  # noqa: E731
    torch.testing.assert_close(deviation(rescale_clean(guided, text, 1.0)), deviation(text))
    torch.testing.assert_close(rescale_clean(guided, text, 0.0), guided)
    assert rescale_clean(torch.full_like(guided, 0.3), text, 1.0).isfinite().all()


def test_views_that_are_predicted_together_are_rescaled_together():
    """As in MVDream's loss: one factor for a group, which keeps the contrast between its views."""
    text, guided = torch.randn(2, 4, 3, 8, 8, generator=seeded())
    guided = guided * torch.tensor([1.0, 2.0, 3.0, 4.0]).view(4, 1, 1, 1)
    factor = rescale_clean(guided, text, 1.0, views=2) / guided
    for group in (factor[:2], factor[2:]):
        torch.testing.assert_close(group, group[:1, :1, :1, :1].expand_as(group))
    expected = text.view(2, -1).std(1) / guided.view(2, -1).std(1)
    torch.testing.assert_close(factor[[0, 2], 0, 0, 0], expected)


class Contrasting(GaussianPrior):
    """A text changes the contrast of the estimate, too: guidance adds contrast."""

    def posterior(self, noisy, timestep, mu):
        return super().posterior(noisy, timestep, mu) * (1 + mu)


def test_rescale_applies_to_gradient_and_preview():
    rgb, prior = image(2), Contrasting()
    output = make_sds(prior, guidance_scale=30.0, weighting="clean", rescale=1.0)(
        rgb, conditioning([0.5, 0.5], [-0.5, -0.5]), 0.0, seeded()
    )
    output.loss.backward()
    alpha = (1 - output.noise_level.square()).sqrt()[:, None, None, None]
    x = (2 * rgb - 1).detach()
    torch.testing.assert_close(rgb.grad, alpha * (x - output.denoised), atol=1e-4, rtol=1e-4)
    noisy, t, (text, _) = prior.calls[0]
    (unguided,) = prior.denoise(noisy, t, [text])
    torch.testing.assert_close(output.denoised.std((1, 2, 3)), unguided.std((1, 2, 3)), atol=1e-5, rtol=1e-4)


def test_only_the_priors_network_uses_mixed_precision():
    class Watched(GaussianPrior):
        def encode_image(self, rgb):
            assert not torch.is_autocast_enabled("cpu") and rgb.dtype == torch.float32
            return super().encode_image(rgb)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        make_sds(Watched())(image(1).bfloat16(), conditioning([0.4], [0.0]), 0.0, seeded())


def test_resize_returns_an_image_of_the_right_size_and_refuses_non_square_ones():
    rgb = image(1)
    assert resize(rgb, SIZE) is rgb
    with pytest.raises(ValueError, match="square images, got 4 x 6 pixels"):
        resize(torch.zeros(1, 3, 4, 6), 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weighting": "sds"}, r"'sds'; type distillation.weighting=sigma2\|uniform\|alpha_sigma2\|clean"),
        ({"rescale": 1.5}, "rescale is 1.5, expected 0"),
    ],
)
def test_bad_options_say_what_to_type(changes, message):
    with pytest.raises(ValueError, match=message):
        make_sds(GaussianPrior(), **changes)


@pytest.mark.parametrize(
    ("low", "high", "place"),
    [
        (0.6, 0.5, r"0.0 is \[0.6, 0.5\]"),
        (0.02, 2.0, r"0.0 is \[0.02, 2.0\]"),
        ([[0.0, 0.1], [1.0, 0.9]], [[0.0, 0.9], [0.5, 0.4]], r"0.5 is \[0.5, 0.4\]"),  # the bounds cross
        ([[0, 0.2], [0.5, 0.2], [0.5, 0.02]], [[0, 0.9], [0.5, 0.1], [0.5, 0.5]], r"0.49.* is \[0.2"),  # before a jump
    ],
)
def test_an_empty_timestep_range_is_named_before_the_first_step(low, high, place):
    with pytest.raises(ValueError, match=f"timestep range at progress {place}"):
        make_sds(GaussianPrior(), min_timestep=low, max_timestep=high)


def test_weights_at_a_known_noise_level():
    abar = torch.tensor([0.64])  # alpha 0.8, sigma 0.6
    values = [weight(name, abar).item() for name in WEIGHTINGS]
    assert values == pytest.approx([0.36, 1.0, 0.288, 0.6, 0.75, 1.75])
    with pytest.raises(ValueError, match=r"unknown weighting 'heavy', expected one of sigma2, uniform, alpha_sigma2"):
        weight("heavy", abar)


def test_min_snr_is_the_ratio_of_the_variances_up_to_its_limit():
    abar = torch.tensor([0.5, 0.8, 0.9])  # ratios 1, 4 and 9
    assert min_snr(abar).flatten().tolist() == pytest.approx([1.0, 4.0, 5.0], rel=1e-5)
    assert min_snr(abar, limit=2.0).flatten().tolist() == pytest.approx([1.0, 2.0, 2.0], rel=1e-5)
    assert min_snr(abar).shape == (3, 1, 1, 1)


def test_views_that_a_prior_couples_share_their_timestep():
    prior = GaussianPrior()
    prior.views = 2
    views = conditioning([0.0] * 6, [0.0] * 6)
    t = make_sds(prior)(image(6), views, 0.0, seeded()).timestep.tolist()
    assert t[::2] == t[1::2]
    assert len(set(t)) == 3
    with pytest.raises(ValueError, match=r"camera\.views is 3, not a multiple of 2; type camera\.views=2"):
        make_sds(prior)(image(3), conditioning([0.0] * 3, [0.0] * 3), 0.0, seeded())


def test_the_prior_is_not_part_of_the_state():
    assert list(make_sds(GaussianPrior()).state_dict()) == []


@pytest.mark.parametrize("method", ["sds", "hifa"])
def test_a_view_whose_prediction_overflows_is_left_out_of_the_step(method, gaussian_prior):
    """One overflow of a half-precision network: the other views keep their gradients."""
    prior = gaussian_prior()
    right = prior.denoise
    text, cameras = prior.encode_text(["a cat", "a cat"]), conditioning([0.0, 0.0], [0.0, 0.0]).cameras
    of_both = Conditioning(text, prior.encode_text(["", ""]), cameras)
    rgb, gradients = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), []
    for factor in (1.0, float("inf")):
        scale = torch.tensor([1.0, factor])[:, None, None, None]
        prior.denoise = lambda *given, scale=scale: tuple(one * scale for one in right(*given))
        image = rgb.clone().requires_grad_()
        out = make_method(method, prior)(image, of_both, 0.5, torch.Generator().manual_seed(0))
        assert out.loss.isfinite()
        gradients += torch.autograd.grad(out.loss, image)
    torch.testing.assert_close(gradients[1][0], gradients[0][0])
    assert gradients[0][1].abs().max() > 1e-3 and gradients[1][1].abs().max() < 1e-7
