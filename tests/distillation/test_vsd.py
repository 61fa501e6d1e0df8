"""Variational score distillation: its direction, and how its adapter is trained."""

import pytest
import torch
from options import make_method
from test_methods import EMPTY, TEXT, AdaptableGaussian, S, X, gradient, levels
from test_sds import SIZE, GaussianPrior, T, conditioning, seeded

from dreamfusion.distillation.base import Step

AT = 400  # timestep


class RecordedAdapter(AdaptableGaussian):
    """Keeps what its adapter was asked."""

    def __init__(self):
        super().__init__(S)
        self.asked = []

    def denoise_adapted(self, noisy, timestep, branch):
        self.asked.append((noisy, timestep, branch))
        return super().denoise_adapted(noisy, timestep, branch)


def a_step(prior, views, size=SIZE):
    """A step at `AT` on `views` constant images, with the texts of `gradient`."""
    latents, t = torch.full((views, 3, size, size), X), torch.full((views,), AT)
    said = conditioning([TEXT] * views, [EMPTY] * views)
    return Step((latents + 1) / 2, latents, t, prior.alphas_cumprod[t], said, 0.5, seeded())


def test_vsd_is_the_difference_of_the_prior_and_the_adapter():
    prior = AdaptableGaussian(S)
    alpha, sigma, deviation = levels(prior)
    slope, _ = gradient("vsd", prior=prior, guidance_scale=1.0)
    assert slope == pytest.approx(sigma * alpha * (0.7 - TEXT) / deviation**2, rel=1e-4)


def test_vsds_adapter_learns_the_mean_of_the_renders_and_its_loss_leaves_the_images_alone():
    prior = AdaptableGaussian(S)
    method = make_method("vsd", prior)
    optimizer = torch.optim.Adam([{**group, "lr": 0.05} for group in method.parameter_groups()])
    rgb, generator = torch.full((16, 3, SIZE, SIZE), (X + 1) / 2, requires_grad=True), seeded()
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.05 if step < 150 else 0.005  # the noise of its steps is averaged at last
        optimizer.zero_grad()
        out = method(rgb, conditioning([TEXT] * 16, [EMPTY] * 16), 0.5, generator)
        out.loss.backward()
        optimizer.step()
    assert prior.adapter.mean.item() == pytest.approx(X, abs=0.02)
    assert list(method.state_dict()) == ["adapter.mean"]
    rgb.grad = None
    step_losses = make_method("vsd", prior).auxiliary_losses
    latents = (rgb * 2 - 1).detach().requires_grad_()
    t = torch.full((16,), AT)
    step = Step(rgb, latents, t, prior.alphas_cumprod[t], conditioning([TEXT] * 16, [EMPTY] * 16), 0.5, seeded())
    step_losses(step)["adapter"].backward()
    assert latents.grad is None


def test_vsds_adapter_learns_at_the_priors_pace_unless_the_user_says_otherwise():
    rates = [make_method("vsd", AdaptableGaussian(), **changes) for changes in ({}, {"learning_rate": 0.5})]
    assert [method.parameter_groups()[0]["lr"] for method in rates] == [1e-4, 0.5]


def test_vsd_refuses_a_prior_without_adapter():
    prior = GaussianPrior()
    prior.sample_scale = 1.0
    with pytest.raises(ValueError, match="distillation=vsd trains an adapter, which guidance=gaussian does not have"):
        make_method("vsd", prior)


def test_the_adapters_loss_is_its_error_at_all_noise_levels_weighted_by_min_snr():
    prior, views = RecordedAdapter(), 4000
    loss = make_method("vsd", prior).auxiliary_losses(a_step(prior, views))["adapter"].item()
    ((noisy, timestep, _),) = prior.asked
    assert timestep.min() < 5 and timestep.max() > T - 5  # not those of the run's range
    assert timestep.double().mean().item() == pytest.approx(T / 2, abs=4 * T / (12 * views) ** 0.5)
    abar = prior.alphas_cumprod[timestep].double()[:, None, None, None]
    noise = (noisy - abar.sqrt() * X) / (1 - abar).sqrt()
    assert noise.mean().item() == pytest.approx(0, abs=0.02)
    assert noise.std().item() == pytest.approx(1, abs=0.02)
    estimate = (abar.sqrt() * S**2 * noisy + (1 - abar) * 0.7) / (abar * S**2 + 1 - abar)
    weight = (abar / (1 - abar)).clamp(max=5)
    assert loss == pytest.approx((weight * (estimate - X) ** 2).mean().item(), rel=1e-3)


def test_the_camera_is_left_out_of_a_share_of_the_adapters_training_and_never_of_the_direction():
    shares = []
    for dropout in (0.0, 0.3, 1.0):
        prior = RecordedAdapter()
        method, step = make_method("vsd", prior, camera_dropout=dropout), a_step(prior, 1, 2)
        for _ in range(400):
            method.auxiliary_losses(step)
        shares.append(sum(branch.unconditional for _, _, branch in prior.asked) / 400)
        prior.asked.clear()
        method.direction(step, *method.perturb(step))
        ((_, timestep, branch),) = prior.asked
        assert not branch.unconditional and timestep.tolist() == [AT]
        assert branch.text.states.flatten().tolist() == pytest.approx([TEXT])
    assert shares == [0.0, pytest.approx(0.3, abs=0.1), 1.0]


class Bright(AdaptableGaussian):
    """Both predictions leave [-1, 1]."""

    def denoise(self, noisy, timestep, branches):
        return tuple(one + 1.5 for one in super().denoise(noisy, timestep, branches))

    def denoise_adapted(self, noisy, timestep, branch):
        return self.denoise(noisy, timestep, [branch])[0]


def test_equal_predictions_cancel_also_beyond_the_range_of_images():
    method = make_method("vsd", Bright(S), guidance_scale=1.0, clip=True)

    step = a_step(Bright(S), 2)
    direction, denoised = method.direction(step, *method.perturb(step))
    assert denoised.max() == 1 and not direction.any()
