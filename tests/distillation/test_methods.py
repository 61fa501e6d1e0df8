"""Every method compared with its closed form on Gaussian priors."""

import math

import pytest
import torch
from options import CONF, make_method
from test_sds import SIZE, GaussianPrior, T, conditioning, image, seeded
from torch import nn

from dreamfusion.diffusion.parameterization import (
    PREDICTIONS,
    alpha_sigma,
    clean_from_prediction,
    flow_alphas_cumprod,
    noise_from_clean,
)
from dreamfusion.distillation.base import Step
from dreamfusion.distillation.weighting import weight

# All but the one that is no method of a diffusion model.
METHODS = sorted({path.stem for path in (CONF / "distillation").glob("*.yaml")} - {"clip_similarity"})
X, TEXT, EMPTY, NEGATIVE, S = 0.4, -0.2, 0.1, 0.3, 0.5
AT = 400  # timestep


class AdaptableGaussian(GaussianPrior):
    """The adapter's only parameter is the mean of the renders."""

    sample_scale, adapter_learning_rate = 1.0, 1e-4

    def adapt(self, rank):
        self.adapter = nn.Module()
        self.adapter.mean = nn.Parameter(torch.tensor(0.7))
        return self.adapter

    def denoise_adapted(self, noisy, timestep, branch):
        return self.posterior(noisy, timestep, self.adapter.mean)

    def warn_if_unknown(self, prompt):
        pass

    def encode_text(self, texts):
        pass

    def decode(self, latents):
        return latents / 2 + 0.5


def levels(prior, t=AT):
    """alpha, sigma and the deviation of z at a timestep."""
    abar = prior.alphas_cumprod[t].double().item()
    alpha, sigma = math.sqrt(abar), math.sqrt(1 - abar)
    return alpha, sigma, math.sqrt(abar * prior.s**2 + 1 - abar)


def gradient(name, views=1, x=X, text=TEXT, empty=EMPTY, prior=None, t=AT, progress=0.0, **changes):
    """Mean gradient of a view in the prior's space, without w(t), at a constant image; and the output."""
    prior = prior or AdaptableGaussian(S)
    method = make_method(name, prior, **({"min_timestep": t / T, "max_timestep": t / T} | changes))
    latents = torch.full((views, 3, SIZE, SIZE), float(x), requires_grad=True)
    said = conditioning([text] * views, [empty] * views)
    out = method((latents.detach() + 1) / 2, said, progress, seeded(), latents)
    out.loss.backward()
    return latents.grad.sum(0).mean().item() / weight(method.weighting, prior.alphas_cumprod[t : t + 1]).item(), out


@pytest.mark.parametrize("name", METHODS)
def test_a_step_downhill_moves_the_image_towards_the_texts_mean(name):
    for x in (TEXT - 0.5, TEXT + 0.5):
        prior = AdaptableGaussian(S)
        prior.adapt = lambda rank, x=x, prior=prior: trained(prior, x)
        slope, _ = gradient(name, 2000, x, empty=x, prior=prior, guidance_scale=2.0)
        assert slope * (x - TEXT) > 0


def trained(prior, mean):
    """The adapter after its training on images of this mean."""
    AdaptableGaussian.adapt(prior, 1)
    nn.init.constant_(prior.adapter.mean, mean)
    return prior.adapter


@pytest.mark.parametrize("name", METHODS)
def test_at_the_texts_mean_with_equal_texts_the_expected_gradient_vanishes(name):
    prior = AdaptableGaussian(S)
    prior.adapt = lambda rank: trained(prior, TEXT)
    slope, _ = gradient(name, 20000, TEXT, empty=TEXT, prior=prior, **({"eta": 0.0} if name == "sdi" else {}))
    assert slope == pytest.approx(0, abs=5e-3)


def test_sjc_is_sds_with_uniform_weight():
    prior = GaussianPrior(S)
    alpha, sigma, deviation = levels(prior)
    slope, _ = gradient("sjc", 20000, prior=prior, guidance_scale=1.0)
    assert slope == pytest.approx(sigma * alpha * (X - TEXT) / deviation**2, rel=1e-2)
    assert make_method("sjc", prior).weighting == "uniform"


@pytest.mark.parametrize("omega", [0.0, 0.5])
def test_csd_is_the_difference_of_two_predictions_without_noise(omega):
    prior = GaussianPrior(S)
    alpha, sigma, deviation = levels(prior)
    slope, _ = gradient("csd", prior=prior, negative=omega)
    # `conditioning` has one text for empty and negative, so that omega has no effect on the value, only on the calls.
    assert slope == pytest.approx(sigma * alpha * (EMPTY - TEXT) / deviation**2, rel=1e-4)
    ((_, _, branches),) = prior.calls
    assert len(branches) == (3 if omega else 2)


def test_csd_and_nfsd_predict_the_empty_text_beside_the_negative_prompt():
    prior = AdaptableGaussian(S)
    alpha, sigma, deviation = levels(prior)
    said = conditioning([TEXT], [NEGATIVE])
    object.__setattr__(said, "empty", conditioning([TEXT], [EMPTY]).negative)
    unit = sigma * alpha / deviation**2
    expected = {
        ("csd", AT): unit * ((EMPTY - TEXT) + 0.5 * (NEGATIVE - EMPTY)),
        ("nfsd", AT): unit * (7.5 * (EMPTY - TEXT) + (NEGATIVE - EMPTY)),
    }
    for (name, t), value in expected.items():
        changes = {"negative": 0.5} if name == "csd" else {"guidance_scale": 7.5}
        method = make_method(name, prior, min_timestep=t / T, max_timestep=t / T, weighting="uniform", **changes)
        latents = torch.full((1, 3, SIZE, SIZE), X, requires_grad=True)
        method((latents.detach() + 1) / 2, said, 0.0, seeded(), latents).loss.backward()
        assert latents.grad.mean().item() == pytest.approx(value, rel=1e-3)


def test_nfsd_at_low_noise_takes_the_empty_prediction_for_the_domain():
    prior, low = AdaptableGaussian(S), 150
    alpha, sigma, deviation = levels(prior, low)
    slope, _ = gradient("nfsd", 20000, prior=prior, t=low, guidance_scale=7.5)
    assert slope == pytest.approx(sigma * alpha * ((X - EMPTY) + 7.5 * (EMPTY - TEXT)) / deviation**2, rel=2e-2)


def test_nfsd_has_no_random_noise_from_the_named_timestep_on():
    prior = AdaptableGaussian(S)
    alpha, sigma, deviation = levels(prior, 200)
    slope, _ = gradient("nfsd", prior=prior, t=200, low_noise=0.2, guidance_scale=7.5)
    assert slope == pytest.approx(sigma * alpha * 7.5 * (EMPTY - TEXT) / deviation**2, rel=1e-3)


def test_an_interval_of_ism_that_is_longer_than_the_way_begins_at_the_render():
    """z_s is the render, then, and x0_hat(z_s) its posterior mean at timestep 0."""
    prior, t = AdaptableGaussian(S), 50
    slope, _ = gradient("ism", prior=prior, empty=TEXT, t=t, interval=0.1, guidance_scale=1.0)
    assert [at.tolist() for _, at, _ in prior.calls] == [[0], [t]]
    alpha_0, sigma_0, deviation_0 = levels(prior, 0)
    noise = sigma_0 * (X - alpha_0 * TEXT) / deviation_0**2
    alpha, sigma, deviation = levels(prior, t)
    z = alpha * (X - sigma_0 * noise) / alpha_0 + sigma * noise
    assert slope == pytest.approx(sigma * (z - alpha * TEXT) / deviation**2 - noise, rel=1e-3)


def test_ism_on_fine_steps_is_the_change_of_the_score_along_the_sampler():
    # Along the sampler (z - alpha mu) / deviation(z) is constant, so eps = sigma (x - mu) / (s deviation(z)).
    prior, interval = AdaptableGaussian(S), 0.1
    slope, _ = gradient("ism", prior=prior, empty=TEXT, interval=interval, stride=0.001, guidance_scale=1.0)
    _, sigma, deviation = levels(prior)
    _, sigma_s, deviation_s = levels(prior, AT - round(interval * T))
    alpha_s = levels(prior, AT - round(interval * T))[0]
    alpha, _, _ = levels(prior)
    z_s = alpha_s * TEXT + deviation_s / S * (X - TEXT)
    noise = sigma_s * (X - TEXT) / (S * deviation_s)
    z = alpha * (z_s - sigma_s * noise) / alpha_s + sigma * noise  # one step over the interval
    assert slope == pytest.approx(sigma * (z - alpha * TEXT) / deviation**2 - noise, rel=2e-2)


def test_ism_and_sdi_without_eta_draw_no_noise():
    for name, changes in {"ism": {}, "sdi": {"eta": 0.0}}.items():
        prior = AdaptableGaussian(S)
        one, _ = gradient(name, prior=prior, **changes)
        two, _ = gradient(name, 3, prior=prior, **changes)
        assert one == pytest.approx(two, rel=1e-5)


def test_sdi_on_fine_steps_compares_the_image_with_the_posterior_mean_of_its_own_noise():
    prior = AdaptableGaussian(S)
    alpha, sigma, deviation = levels(prior)
    slope, out = gradient(
        "sdi", prior=prior, empty=TEXT, stride=0.001, eta=0.0, guidance_scale=1.0, inversion_scale=1.0
    )
    denoised = TEXT + alpha * S / deviation * (X - TEXT)
    assert out.denoised.mean().item() == pytest.approx(denoised, rel=1e-2)
    assert slope == pytest.approx(alpha / sigma * (X - denoised), rel=3e-2)


def test_sdi_with_many_sampling_steps_finds_the_image_again():
    _, out = gradient("sdi", empty=TEXT, stride=0.001, eta=0.0, guidance_scale=1.0, inversion_scale=1.0, steps=200)
    assert out.denoised.mean().item() == pytest.approx(X, abs=1e-2)


def test_sdi_inverts_in_strides_and_samples_in_even_steps_from_the_timestep_down():
    prior = AdaptableGaussian(S)
    gradient("sdi", prior=prior, t=300, steps=3)
    assert [at.tolist() for _, at, _ in prior.calls[-3:]] == [[300], [200], [100]]
    assert [at.tolist() for _, at, _ in prior.calls[:-3]] == [[100], [200], [300]]  # of the inversion, stride 0.1
    prior.calls.clear()
    gradient("sdi", prior=prior, t=3, stride=0.001)
    assert [at.tolist() for _, at, _ in prior.calls] == [[1], [2], [3], [3]]


def test_the_inversion_of_sdi_has_minus_the_guidance_scale():
    gradients = [gradient("sdi", guidance_scale=3.0, inversion_scale=scale, eta=0.0)[0] for scale in (None, -3.0, 3.0)]
    assert gradients[0] == gradients[1] != gradients[2]


def test_hifa_adds_the_residual_between_the_images():
    prior = AdaptableGaussian(S)
    rgb = image(2)
    plain, both = (make_method("hifa", prior, image_weight=w, min_timestep=0.4, max_timestep=0.4) for w in (0.0, 0.5))
    said, slopes = conditioning([TEXT] * 2, [EMPTY] * 2), []
    for method in (plain, both):
        rgb.grad = None
        out = method(rgb, said, 0.0, seeded())
        out.loss.backward()
        slopes.append(rgb.grad.clone())
    alpha, sigma, _ = levels(prior)
    w = weight(plain.weighting, prior.alphas_cumprod[AT : AT + 1]).item()
    expected = 0.5 * w * alpha / sigma * (rgb.detach() - (out.denoised / 2 + 0.5)) / 2
    torch.testing.assert_close(slopes[1] - slopes[0], expected, atol=1e-6, rtol=1e-4)


def test_hifas_image_term_weighs_the_same_for_a_render_of_any_size():
    prior, slopes = AdaptableGaussian(S), []
    for size in (8, 16, 32):
        level = torch.full((2, 1, 1, 1), 0.4, requires_grad=True)
        method = make_method("hifa", prior, image_weight=0.5, min_timestep=0.4, max_timestep=0.4)
        rgb = level.expand(2, 3, size, size)
        method(rgb, conditioning([TEXT] * 2, [EMPTY] * 2), 0.0, seeded()).loss.backward()
        slopes.append(level.grad.flatten())
    torch.testing.assert_close(torch.stack(slopes), slopes[0].expand(3, 2), rtol=0.02, atol=1e-5)


def test_ism_subtracts_estimates_of_one_range():
    """Without guidance, and with the same text, both ends of the interval agree but for the interval."""
    prior = AdaptableGaussian(S)
    method = make_method("ism", prior, min_timestep=0.4, max_timestep=0.4, clip=True)
    bright = torch.full((1, 3, 8, 8), 2.0)
    _, clean = method.perturb(Step(bright, bright * 4, *a_time(prior), conditioning([TEXT], [EMPTY]), 0.0, seeded()))
    assert clean.abs().max() == 1


def a_time(prior):
    t = torch.tensor([400])
    return t, prior.alphas_cumprod[t]


class Network(AdaptableGaussian):
    """The same prior by a network of another prediction type."""

    def __init__(self, kind):
        super().__init__(S)
        self.kind = kind

    def denoise(self, noisy, timestep, branches):
        abar = self.alphas_cumprod[timestep]
        alpha, sigma = alpha_sigma(abar)
        estimates = []
        for clean in super().denoise(noisy, timestep, branches):
            noise = noise_from_clean(clean, noisy, abar)
            outputs = {
                "epsilon": noise,
                "sample": clean,
                "v_prediction": alpha * noise - sigma * clean,
                "flow_prediction": noise - clean,
            }
            estimates.append(clean_from_prediction(self.kind, outputs[self.kind], noisy, abar))
        return tuple(estimates)


def zero_terminal(kind):
    """Schedule that ends in pure noise, alpha = 0."""
    prior = Network(kind)
    prior.alphas_cumprod = torch.cat([prior.alphas_cumprod[:-1], torch.zeros(1)])
    return prior


@pytest.mark.parametrize("kind", ["v_prediction", "flow_prediction"])
@pytest.mark.parametrize("name", METHODS)
def test_in_pure_noise_each_method_has_its_closed_form_in_units_of_the_clean_image(name, kind):
    """There x0_hat is the texts' mean. By w = sigma / alpha = 1 / 0 the gradient is a difference of clean images."""
    prior, scale, interval = zero_terminal(kind), 3.0, 0.1
    text = EMPTY + scale * (TEXT - EMPTY)
    alpha, _, deviation = levels(prior, T - 1 - round(interval * T))
    expected = {
        "csd": EMPTY - TEXT,
        "nfsd": scale * (EMPTY - TEXT),  # the empty text is the negative prompt too
        "vsd": 0.7 - text,
        "ism": EMPTY + alpha * S / deviation * (X - EMPTY) - text,  # x0_hat(z_s) along the exact flow
    }
    changes = {"interval": interval, "stride": 0.001} if name == "ism" else {}
    changes |= {"guidance_scale": scale, "weighting": "reconstruction", "rescale": 0.0}  # a constant has no contrast
    slope, out = gradient(name, prior=prior, t=T - 1, progress=0.5, **changes)
    w = weight("reconstruction", prior.alphas_cumprod[-1:]).item()
    assert slope * w == pytest.approx(expected.get(name, X - text), rel=2e-2 if name == "ism" else 1e-4)
    assert out.loss.isfinite() and out.denoised.isfinite().all()
    own, _ = gradient(name, prior=prior, t=T - 1, progress=0.5)
    assert math.isfinite(own)


class FlowGaussian(Network):
    """The Gaussian prior as a rectified flow, x_s = (1 - s) x + s eps, with velocity prediction."""

    def __init__(self):
        super().__init__("flow_prediction")
        self.alphas_cumprod = flow_alphas_cumprod(torch.linspace(0.001, 0.9999, T, dtype=torch.float64)).float()


def velocity(x, noise, s, mean):
    """E[eps - x | x_s] of the flow prior at x_s = (1 - s) x + s noise, by the linear regression of both on x_s."""
    variance = (1 - s) ** 2 * S**2 + s**2
    offset = (1 - s) * x + s * noise - (1 - s) * mean
    return -mean + (s - (1 - s) * S**2) / variance * offset


def test_rfds_is_the_error_of_the_predicted_velocity_on_a_flow():
    # With random noise the expectation over eps of v_hat - (eps - x); linear in eps, so its value at eps = 0.
    prior, s = FlowGaussian(), torch.linspace(0.001, 0.9999, T, dtype=torch.float64)[AT].item()
    slope, _ = gradient("rfds", 20000, prior=prior, guidance_scale=1.0)
    w = weight("flow", prior.alphas_cumprod[AT : AT + 1]).item()
    assert w == pytest.approx(1 / (1 - s), rel=1e-4)
    assert slope * w == pytest.approx(velocity(X, 0.0, s, TEXT) + X, rel=2e-2)


def test_flowdreamer_takes_the_noise_at_the_other_end_of_the_images_path():
    # The exact flow keeps (x_s - (1 - s) mean) / deviation(s), so that x ends in (x - mean) / S.
    prior, s = FlowGaussian(), torch.linspace(0.001, 0.9999, T, dtype=torch.float64)[AT].item()
    slope, _ = gradient("flowdreamer", prior=prior, empty=TEXT, stride=0.001, guidance_scale=1.0, progress=0.5)
    noise = (X - TEXT) / S
    w = weight("flow", prior.alphas_cumprod[AT : AT + 1]).item()
    assert slope * w == pytest.approx(velocity(X, noise, s, TEXT) - (noise - X), rel=2e-2)


def test_flowdreamer_begins_with_random_noise_as_rfds():
    early, rfds = (gradient(name, prior=FlowGaussian(), guidance_scale=3.0)[0] for name in ("flowdreamer", "rfds"))
    assert early == rfds
    late = [gradient("flowdreamer", views, prior=FlowGaussian(), progress=0.2)[0] for views in (1, 3)]
    assert late[0] == pytest.approx(late[1], rel=1e-5)  # no random noise


@pytest.mark.parametrize("name", METHODS)
def test_networks_of_all_prediction_types_give_one_gradient(name):
    slopes = [gradient(name, 4, prior=Network(kind))[0] for kind in PREDICTIONS]
    assert slopes == pytest.approx([slopes[0]] * len(slopes), rel=1e-3, abs=1e-5)


def test_clip_gradient_limits_each_entry_before_the_mean_over_views():
    gradients = []
    for limit in (None, 0.25):
        latents = (image(4) * 2 - 1).detach().requires_grad_()
        method = make_method("sds", GaussianPrior(), guidance_scale=3.0, clip_gradient=limit)
        method(image(4), conditioning([TEXT, 0.9, -0.9, X], [EMPTY] * 4), 0.0, seeded(), latents).loss.backward()
        gradients.append(latents.grad * 4)
    free, limited = gradients
    assert free.max() > 0.25 and free.min() < -0.25 and (free.abs() < 0.25).any()
    torch.testing.assert_close(limited, free.clamp(min=-0.25, max=0.25))
    with pytest.raises(ValueError, match=r"distillation.clip_gradient is 0\.0; a limit must be above 0, or null"):
        make_method("sds", GaussianPrior(), clip_gradient=0.0)


def test_clip_pixels_limits_the_norm_of_each_pixel_and_keeps_its_direction():
    grads = []
    for limit in (None, 1.2):
        rgb = image(2)
        method = make_method("sds", GaussianPrior(), guidance_scale=3.0, clip_pixels=limit)
        method(rgb, conditioning([TEXT] * 2, [EMPTY] * 2), 0.0, seeded()).loss.backward()
        grads.append(rgb.grad * 2)
    free, limited = grads
    norm = free.norm(dim=1, keepdim=True)
    assert (norm > 1.2).any()
    assert (norm < 1.2).any()
    torch.testing.assert_close(limited, free * (1.2 / norm).clamp(max=1))


def test_stratified_timesteps_have_one_in_each_part_of_the_range():
    method = make_method("sds", GaussianPrior(), min_timestep=0.1, max_timestep=0.9, sampling="stratified")
    t = method(image(8), conditioning([0.0] * 8, [0.0] * 8), 0.0, seeded()).timestep
    assert sorted(((t - 100) // 100).tolist()) == list(range(8))
    assert t.tolist() != sorted(t.tolist())
    again, other = (method.draw_timestep(8, 0.1, 0.9, seeded(seed)) for seed in (0, 1))
    assert torch.equal(again, t) and not torch.equal(other // 100, t // 100)


def test_sqrt_annealing_is_the_published_schedule_of_hifa():
    method = make_method(
        "hifa", AdaptableGaussian(), min_timestep=[[0, 0.98], [1, 0.3]], max_timestep=[[0, 0.98], [1, 0.3]]
    )
    for progress in (0.0, 0.25, 1.0):
        t = method(image(1), conditioning([0.0], [0.0]), progress, seeded()).timestep.item()
        assert t == pytest.approx((0.98 - (0.98 - 0.3) * math.sqrt(progress)) * T, abs=1)


def test_bad_choices_say_what_to_type():
    with pytest.raises(ValueError, match=r"unknown sampling 'even'; type distillation.sampling=random\|stratified"):
        make_method("sds", GaussianPrior(), sampling="even")
    with pytest.raises(ValueError, match=r"distillation\.steps is 0; it must be 1 or more"):
        make_method("sdi", AdaptableGaussian(), steps=0)


@pytest.mark.parametrize(
    "method, setting, value, allowed",
    [
        ("ism", "interval", 50, "above 0 and at most 1: type distillation.interval=0.05"),
        ("ism", "interval", [[0.0, 0.1], [1.0, -0.5]], "above 0 and at most 1"),
        ("ism", "stride", 200.0, "above 0 and at most 1: type distillation.stride=0.2"),
        ("ism", "stride", 0.0, "above 0"),
        ("sdi", "stride", 0.0, "above 0"),
        ("sdi", "eta", -1.0, "0 to 1: type distillation.eta=0.3"),
        ("sdi", "eta", 3.0, "0 to 1"),
        ("flowdreamer", "stride", 3.0, "above 0"),
        ("flowdreamer", "random_until", 1800.0, "0 to 1: type distillation.random_until=0.18"),
        ("csd", "negative", -0.5, "0 or more"),
        ("vsd", "camera_dropout", 1.5, "0 to 1"),
        ("vsd", "learning_rate", 0.0, "above 0, or null"),
    ],
)
def test_numbers_of_a_method_out_of_their_range_are_named(method, setting, value, allowed):
    with pytest.raises(ValueError, match=f"distillation.{setting} is .*; it must be {allowed}"):
        make_method(method, AdaptableGaussian(), **{setting: value})
