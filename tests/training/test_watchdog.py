"""Each way a run fails is recognised within 50 steps and named with the setting to change; nothing else is."""

import copy
import csv
import logging
import math
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from options import make_method, make_sds, option
from priors import Bad, GaussianPrior
from training import assert_same, make_trainer

from dreamfusion.camera.data import CameraData
from dreamfusion.error import UserError
from dreamfusion.guidance.prior import ImageScorer, Multiscale, PictureConditioned, seen_size
from dreamfusion.loss import Regularizer
from dreamfusion.runs.dream import restarts
from dreamfusion.scene.background.solid import ConstantBackground
from dreamfusion.scene.nerf.scene import NeRF
from dreamfusion.scene.nerf.stratified import StratifiedRenderer
from dreamfusion.training import watchdog
from dreamfusion.training.health import masked_mean, measure, rim_mask, watch
from dreamfusion.training.loggers import MetricsFile
from dreamfusion.training.metrics import Metrics
from dreamfusion.training.watchdog import SYMPTOMS, Sick, diagnose

ORBIT = option("camera/orbit", size=16)
HEALTHY = {
    "loss": -30.0, "prediction": 4.0, "guidance": 0.0, "gradient": 15.0, "parameter_gradient": 50.0, "parameter": 1.5,
    "opacity": 0.2, "rim_opacity": 0.0, "rim_background": 1.0, "growth": 1.0,
}  # fmt: skip


class Echo(GaussianPrior):
    """Estimates the image as it is, and for a text with `share` of it replaced by white."""

    def __init__(self, share=0.0):
        super().__init__()
        self.share = share

    def denoise(self, noisy, timestep, branches):
        white = self.share * (1 - self.seen)
        return tuple(self.seen + white * branch.text.states[:, :1, :, None].sign() for branch in branches)

    def encode_image(self, rgb):
        latents = super().encode_image(rgb)
        self.seen = latents.detach()
        return latents


def run(system, folder, *callbacks, steps=12, **changes):
    """Train with a watchdog that checks every 4 steps; returns the trainer."""
    dog = option("watchdog/stop", **({"every": 4} | changes))
    trainer = make_trainer(folder, dog, *callbacks, steps=steps)
    trainer.fit(system, CameraData(ORBIT, steps, system.seed))
    return trainer


def with_prior(make_system, prior):
    return make_system(distillation=make_sds(prior))


def optimizer(table):
    return option("optimizer/adam", learning_rates={"table": table, "network": 0.001})


def full(make_scene, field):
    """A scene that is opaque everywhere, over white."""
    return make_scene(field(blob_density=0.0, density_scale=20.0), ConstantBackground([1.0, 1.0, 1.0]))


SICK = {
    "learning rate 100": (lambda make, field, scene: make(optimization=optimizer(100.0)), "exploded"),
    "an infinite prediction": (lambda make, *_: with_prior(make, Bad(lambda x: x * math.inf)), "prediction"),
    "a prediction that is not a number": (lambda make, *_: with_prior(make, Bad(lambda x: x * math.nan)), "prediction"),
    "a prediction of 1e30": (lambda make, *_: with_prior(make, Bad(lambda x: x.sign() * 1e30)), "prediction"),
    "guidance scale 1e6": (
        lambda make, *_: make(distillation=make_sds(GaussianPrior(), guidance_scale=1e6)),
        "guidance",
    ),
    "an infinite weight": (lambda make, *_: make(regularizer=Regularizer(opacity=1e38)), "not_finite"),
    "a thin scene": (lambda make, field, scene: make(scene=scene(field(density_scale=1e-3))), "empty"),
    "fog": (lambda make, field, scene: make(scene=full(scene, field), distillation=make_sds(Echo(0.8))), "full"),
    "a gradient of zero": (lambda make, *_: with_prior(make, Echo()), "vanished"),
}


@pytest.mark.parametrize("case", SICK)
def test_a_sick_run_is_stopped_with_its_name_and_what_to_change(case, make_system, tiny_field, make_scene, tmp_path):
    make, name = SICK[case]
    with pytest.raises(Sick, match=r"^step 1[26] of 24: ") as error:
        run(make(make_system, tiny_field, make_scene), tmp_path, steps=24)
    assert SYMPTOMS[name].sentence.split("{")[0] in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", ["sds", "csd", "sjc"])
def test_an_object_that_fills_its_ball_is_no_fog(method, make_system, tiny_field, make_scene, tmp_path):
    """Before, `a soccer ball` was stopped as fog with csd and sjc, whose gradients do not fall when the scene fits."""
    prior = Echo(0.2)  # an estimate that is a little off, as for a ball with its colours not yet right
    system = make_system(scene=full(make_scene, tiny_field), distillation=make_method(method, prior))
    assert run(system, tmp_path, steps=24).global_step == 24
    assert system.last_opacity.mean() > 0.6  # the ball, not the corners


def test_every_symptom_is_tested_and_the_defaults_recognise_it_within_50_steps():
    assert {name for _, name in SICK.values()} == set(SYMPTOMS)
    dog = option("watchdog/stop")
    assert dog.every * (dog.patience + 1) <= 50  # the first check may come just before the symptom


LIMITS = {
    "prediction": 100.0, "parameter": 10.0, "guidance": 50.0, "empty": 0.01, "full": 0.5, "background": 0.3,
    "vanished": 1e-4,
}  # fmt: skip
NAN = math.nan


@pytest.mark.parametrize(
    ("figures", "symptom"),
    [
        ({}, None),
        ({"prediction": 100.0}, None), ({"prediction": 100.1}, "prediction"), ({"prediction": NAN}, "prediction"),
        ({"growth": 10.0}, None), ({"growth": 10.1}, "exploded"), ({"growth": NAN}, "exploded"),
        ({"loss": math.inf}, "not_finite"), ({"parameter_gradient": NAN}, "not_finite"),
        ({"guidance": 50.0}, None), ({"guidance": 50.1}, "guidance"),
        ({"opacity": 0.01}, None), ({"opacity": 0.0099}, "empty"),
        ({"rim_opacity": 0.51, "rim_background": 0.31}, "full"), ({"rim_opacity": 0.5, "rim_background": 0.31}, None),
        ({"rim_opacity": 0.51, "rim_background": 0.3}, None),
        ({"gradient": 1e-4, "parameter_gradient": 1e-4}, None), ({"gradient": 9e-5}, "vanished"),
        ({"parameter_gradient": 9e-5}, "vanished"),
        # The first of several: a later one follows from it.
        ({"prediction": NAN, "growth": NAN, "loss": NAN}, "prediction"), ({"growth": NAN, "loss": NAN}, "exploded"),
        ({"loss": NAN, "guidance": 60.0}, "not_finite"), ({"guidance": 60.0, "opacity": 0.0}, "guidance"),
        ({"opacity": 0.0, "gradient": 0.0}, "empty"),
    ],
)  # fmt: skip
def test_a_figure_is_a_symptom_beyond_its_limit_only_and_the_first_one_counts(figures, symptom):
    assert diagnose(HEALTHY | figures, LIMITS) == symptom
    assert option("watchdog/stop").limits.keys() == LIMITS.keys()
    assert diagnose(HEALTHY, option("watchdog/stop").limits) is None


@pytest.mark.parametrize("seed", [0, 1])
def test_a_healthy_run_is_left_alone(seed, make_system, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        assert run(make_system(seed), tmp_path, answer="warn", steps=24).global_step == 24
    assert caplog.text == ""


class Large(L.Callback):
    """Adds to the table after each step."""

    def __init__(self, value):
        self.value = value

    @torch.no_grad()
    def on_train_batch_end(self, trainer, system, outputs, batch, batch_idx):
        system.scene.field.table.add_(self.value)


def test_a_parameter_may_grow_with_the_steps_and_be_large_at_the_start_but_not_jump(make_system, tmp_path):
    """Before, runs of more than 5,000 steps ended as exploded: the largest parameter grows in proportion to them."""
    system = make_system()
    with torch.no_grad():
        system.scene.field.table[0] = 1e4
    limits = option("watchdog/stop").limits
    steady = {"limits": limits | {"full": 2.0}, "steps": 12}  # the opacity of such a table is none of this test
    assert run(system, tmp_path, Large(0.9 * limits["parameter"] / 12), **steady).global_step == 12
    with pytest.raises(Sick, match="a parameter of the scene is"):
        run(make_system(), tmp_path, Large(1.2 * limits["parameter"] / 12), **steady)


def test_a_warning_comes_once_and_the_run_trains_on(make_system, tmp_path, caplog):
    system = with_prior(make_system, Echo())
    with caplog.at_level(logging.WARNING):
        assert run(system, tmp_path, answer="warn", every=1, steps=10).global_step == 10
    assert [record.message.split(":")[0] for record in caplog.records] == ["step 3 of 10"]


def test_a_symptom_of_the_last_step_needs_no_patience(make_system, tmp_path):
    with pytest.raises(Sick, match="step 3 of 3"):
        run(with_prior(make_system, Echo()), tmp_path, steps=3)


class States(L.Callback):
    """The scene's table, the learning rates and the number of Adam's moments after each step."""

    def __init__(self):
        self.tables, self.rates, self.moments = [], [], []

    def on_train_batch_end(self, trainer, system, outputs, batch, batch_idx):
        self.tables.append(system.scene.field.table.detach().clone())
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.moments.append(len(trainer.optimizers[0].state))


def test_a_restart_brings_back_the_last_healthy_state_with_smaller_steps(make_system, tmp_path, caplog):
    before = make_system().scene.field.table.detach().clone()
    states, system = States(), make_system(optimization=optimizer(100.0))
    with caplog.at_level(logging.WARNING):
        changes = {"answer": "restart", "patience": 1, "factor": 0.001, "steps": 16, "limits": {"parameter": 20.0}}
        trainer = run(system, tmp_path, states, **changes)
    assert restarts(trainer) == 1
    assert torch.equal(states.tables[3], before)
    assert not torch.equal(states.tables[2], before)
    assert states.moments[2] > 0 == states.moments[3]  # those of step 0
    assert states.rates[2] > 10
    assert states.rates[3] == pytest.approx(0.001 * 100 * (1 - 0.98 * 4 / 16), rel=1e-6)  # of the fifth step
    assert max(states.rates[3:]) < 0.1
    assert system.scene.field.table.abs().max() < before.abs().max() + 1
    (record,) = caplog.records
    assert record.message.endswith(
        "The scene of step 0 is restored, with 0.001 times the learning rates; restarts left: 2"
    )


def test_a_second_restart_brings_back_the_same_moments_as_the_first():
    """Torch's optimizer goes on with the tensors that it was given."""
    system, dog = torch.nn.Linear(2, 1), option("watchdog/restart")
    adam = torch.optim.Adam(system.parameters(), fused=True)
    trainer = SimpleNamespace(optimizers=[adam], lr_scheduler_configs=[], global_step=1)

    def step(value):
        for parameter in system.parameters():
            parameter.grad = torch.full_like(parameter, value)
        adam.step()

    step(1.0)
    dog._remember(trainer, system)
    expected = copy.deepcopy(adam.state_dict())
    for _ in range(2):
        step(math.nan)
        dog._restart(trainer, system)
        assert_same(adam.state_dict(), expected)


@pytest.mark.parametrize("changes", [{"answer": "stop"}, {"patience": 2}])
def test_a_run_resumed_with_another_answer_or_patience_is_diagnosed_anew(changes):
    """A count above the patience was answered before, by a warning."""
    before = option("watchdog/warn", every=1, patience=3)
    before._symptom, before._count = "vanished", 100
    same = option("watchdog/warn", every=1, patience=3)
    other = option("watchdog/warn", **({"every": 1, "patience": 3} | changes))
    for dog in (same, other):
        dog.load_state_dict(before.state_dict())
    assert (same._symptom, same._count) == ("vanished", 100)
    assert (other._symptom, other._count) == (None, 0)


def test_a_run_that_has_used_its_restarts_can_be_given_more():
    dog = option("watchdog/restart", restarts=3)
    dog.restarted = 3
    more = option("watchdog/restart", restarts=5)
    more.load_state_dict(dog.state_dict())
    assert more.restarted == 3 and more.left == 2


def test_the_next_symptom_after_the_last_restart_stops_the_run(make_system, tmp_path, caplog):
    system = with_prior(make_system, Bad(lambda x: x * math.nan))
    with caplog.at_level(logging.WARNING), pytest.raises(Sick, match="the prior's prediction reaches nan"):
        run(system, tmp_path, answer="restart", every=1, patience=2, restarts=2, steps=24)
    assert len(caplog.records) == 2


def test_the_figures_and_the_symptom_are_in_the_metrics(make_system, tmp_path):
    trainer_logger = MetricsFile(tmp_path / "metrics.csv")
    dog = option("watchdog/stop", every=2, patience=2)
    trainer = make_trainer(tmp_path, dog, Metrics(), steps=6)
    trainer.logger, trainer.log_every_n_steps = trainer_logger, 2
    system = with_prior(make_system, Echo())
    with pytest.raises(Sick):
        trainer.fit(system, CameraData(ORBIT, 6, system.seed))
    trainer_logger.save()
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "3"]
    assert [row["watchdog/vanished"] for row in rows] == ["", "1.0"]
    assert all(float(row["watchdog/gradient"]) < 1e-4 for row in rows)


def test_it_looks_only_at_its_own_steps_and_reads_the_device_once_a_check(make_system, tmp_path, monkeypatch):
    reads, measured = [], []
    monkeypatch.setattr(watchdog, "measure", lambda *a: measured.append(a) or measure(*a))
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self, read=torch.Tensor.tolist: reads.append(self) or read(self))
    run(make_system(), tmp_path, every=5, steps=10)
    assert len(measured) == 2
    assert len([one for one in reads if one.shape == (10,)]) == 2


def test_it_changes_no_bit_of_a_healthy_run(make_system, tmp_path):
    with_it, without = make_system(), make_system()
    run(with_it, tmp_path, answer="restart", every=1)
    trainer = make_trainer(tmp_path, steps=12)
    trainer.fit(without, CameraData(ORBIT, 12, without.seed))
    assert_same(dict(with_it.state_dict()), dict(without.state_dict()))
    assert isinstance(with_it.distillation.prior, GaussianPrior)  # given back


def test_a_watched_prior_is_what_the_prior_is():
    """Distillation asks a prior whether it looks at several sizes, scores images or looks at a picture."""

    class Other(GaussianPrior):
        sizes = (8, 16)

        def score(self, latents, conditioning):
            return self.weighting

    prior = Other()
    watched = watch(prior)
    assert isinstance(watched, Multiscale) and isinstance(watched, ImageScorer) and isinstance(watched, Other)
    assert not isinstance(watched, PictureConditioned) and not isinstance(watch(GaussianPrior()), Multiscale)
    assert [seen_size(watched, pixels) for pixels in (8, 20)] == [8, 16]
    prior.weighting = "moved"
    assert watched.score(None, None) == "moved" and watched.watched is prior


@pytest.mark.parametrize(("size", "expected"), [(0.5, 0.0), (0.85, 0.0), (1.0, 0.9)])
def test_only_a_ball_that_reaches_the_rim_has_opacity_there(size, expected, ball, cameras_at):
    scene = NeRF(ball(200.0, size=size), ConstantBackground([1.0, 1.0, 1.0]), StratifiedRenderer(1.0, 96))
    cameras = cameras_at([0.0, 120.0], [10.0, 50.0], height=48)
    found = float(masked_mean(scene.render(cameras).opacity, rim_mask(scene, cameras)))
    assert expected <= found <= expected + 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": "pray"}, r"watchdog.answer is pray; type watchdog=warn\|stop\|restart"),
        ({"every": 0}, "watchdog.every is 0"),
        ({"factor": 2.0}, "watchdog.factor is 2.0; it must be above 0 and below 1"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        option("watchdog/stop", **changes)


def test_the_number_of_restarts_is_kept_in_a_checkpoint_and_is_0_in_an_older_one():
    before, after = option("watchdog/restart"), option("watchdog/restart")
    before.restarted = 2
    state = before.state_dict()
    after.load_state_dict(state)
    assert after.restarted == 2
    del state["restarted"]
    after.load_state_dict(state)
    assert after.restarted == 0
