"""The figures of a step, each computed once more by hand."""

from types import SimpleNamespace

import lightning as L
import pytest
import torch
from options import make_sds, option
from priors import GaussianPrior
from training import make_trainer, train

from dreamfusion.camera.data import CameraData
from dreamfusion.training import watchdog
from dreamfusion.training.health import FAINT, masked_mean, measure, rim_background, rim_mask, watch

SCALE = 3.0


class Measured(L.Callback):
    """The figures of each step, and what they were made of."""

    def __init__(self):
        self.figures, self.predictions, self.parameters, self.gradients = [], [], [], []

    def on_fit_start(self, trainer, system):
        self.prior = system.distillation.prior = watch(system.distillation.prior)

    def on_train_batch_end(self, trainer, system, outputs, batch, batch_idx):
        self.figures.append(measure(system, self.prior, outputs["loss"], batch))
        noisy, abar, estimates = self.prior._last
        alpha, sigma = abar.sqrt()[:, None, None, None], (1 - abar).sqrt()[:, None, None, None]
        self.predictions.append([(noisy - alpha * clean) / sigma for clean in estimates])
        self.parameters.append(torch.cat([p.detach().flatten() for p in system.parameters()]))
        self.gradients.append(torch.cat([p.grad.flatten() for p in system.parameters() if p.grad is not None]))
        self.opacity, self.scene, self.cameras = system.last_opacity, system.scene, batch


def test_the_figures_of_a_step_are_the_largest_numbers_the_norms_and_the_means(make_system, tmp_path):
    measured = Measured()
    train(make_system(distillation=make_sds(GaussianPrior(), guidance_scale=-SCALE)), tmp_path, measured, steps=2)
    (text, null), figures = measured.predictions[1], measured.figures[1]
    expected = {
        "prediction": max(text.abs().max(), null.abs().max()),
        "guidance": SCALE * (text - null).abs().max(),
        "parameter_gradient": measured.gradients[1].square().sum().sqrt(),
        "parameter": measured.parameters[1].abs().max(),
        "opacity": measured.opacity.mean(),
    }
    for name, value in expected.items():
        assert figures[name].item() == pytest.approx(float(value), rel=1e-3), name
    assert not any(value.requires_grad for value in figures.values())
    rim = rim_mask(measured.scene, measured.cameras)
    assert rim.any() and figures["rim_opacity"].item() == pytest.approx(masked_mean(measured.opacity, rim).item())
    assert figures["rim_background"] != 0


def test_without_guidance_there_is_one_prediction_and_no_figure_of_guidance(make_system, tmp_path):
    measured = Measured()
    train(make_system(distillation=make_sds(GaussianPrior(), guidance_scale=1.0)), tmp_path, measured, steps=1)
    ((text,),), (figures,) = measured.predictions, measured.figures
    assert figures["guidance"] == 0
    assert figures["prediction"].item() == pytest.approx(text.abs().max().item(), rel=1e-3)


def test_the_background_at_the_rim_is_the_share_that_explains_the_estimate_by_least_squares():
    generator = torch.Generator().manual_seed(0)
    render = torch.rand(2, 3, 8, 8, generator=generator) * 2 - 1
    background = torch.tensor([[1.0, 0.5, 0.0], [0.2, 0.9, 0.4]])
    flat = (2 * background - 1)[:, :, None, None]
    rim = torch.zeros(2, 1, 8, 8)
    rim[:, :, :, 5:] = 1.0
    system = SimpleNamespace(last_guidance=SimpleNamespace(latents=render), last_background=background)

    def found(estimate, rim=rim):
        return rim_background(system, SimpleNamespace(watched=GaussianPrior(), last_estimate=lambda: estimate), rim)

    noise = torch.randn(2, 3, 8, 8, generator=generator)
    for share in (0.0, 0.3, 1.0):
        estimate = torch.where(rim > 0, (1 - share) * render + share * flat, noise)  # elsewhere it does not count
        assert found(estimate).item() == pytest.approx(share, abs=1e-5)
    assert found(None) == 1
    assert found(noise, torch.zeros(2, 1, 8, 8)) == 0
    # A prior of fewer pixels: the mask is a mean over areas.
    system.last_guidance.latents = torch.zeros(2, 3, 8, 8)
    twice = rim.repeat_interleave(2, -1).repeat_interleave(2, -2)
    assert found(0.3 * flat.expand(2, 3, 8, 8), twice).item() == pytest.approx(0.3, abs=1e-5)
    # A render that is nearly its background shows nothing: the denominator is at least FAINT per pixel.
    system.last_guidance.latents = flat.expand(2, 3, 8, 8) - 1e-3
    estimate = flat.expand(2, 3, 8, 8)
    assert found(estimate).item() == pytest.approx(3 * 1e-3**2 / FAINT, rel=1e-2)


def test_the_mean_over_a_mask_leaves_out_the_rest_and_is_0_without_a_pixel():
    image, mask = torch.tensor([[1.0, 5.0, 9.0]]), torch.tensor([[1.0, 0.0, 1.0]])
    assert masked_mean(image, mask) == 5 and masked_mean(image, mask * 0) == 0


class Grows(L.Callback):
    """Adds 1 to the whole table after each step."""

    @torch.no_grad()
    def on_train_batch_end(self, trainer, system, outputs, batch, batch_idx):
        system.scene.field.table.add_(1.0)
        self.norms.append(system.last_guidance.gradient_norm.mean().item())


def test_growth_is_per_thousand_steps_and_the_gradient_is_the_mean_since_the_last_check(
    make_system, tmp_path, monkeypatch
):
    seen, grows = [], Grows()
    grows.norms = []
    monkeypatch.setattr(watchdog, "diagnose", lambda figures, limits: seen.append(figures))
    system = make_system(optimization=option("optimizer/adam", learning_rates={"table": 1e-9, "network": 1e-9}))
    start = max(parameter.abs().max().item() for parameter in system.parameters())
    dog, orbit = option("watchdog/stop", every=4), option("camera/orbit", size=8)
    trainer = make_trainer(tmp_path, grows, dog, steps=12)
    trainer.fit(system, CameraData(orbit, 12, 0))
    table = system.scene.field.table.detach().abs().max().item() - 12  # the largest at first
    assert [figures["growth"] for figures in seen] == pytest.approx(
        [(step + table - start) / (1 + step / 1000) for step in (4, 8, 12)], rel=1e-4
    )
    means = [sum(grows.norms[first : first + 4]) / 4 for first in (0, 4, 8)]
    assert [figures["gradient"] for figures in seen] == pytest.approx(means, rel=1e-4)
