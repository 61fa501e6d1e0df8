"""The training step compared with its parts, and a resumed run with an uninterrupted one."""

import signal
from dataclasses import replace

import lightning as L
import pytest
import torch
from options import option
from training import ORBIT, STEPS, assert_same, state, train

from dreamfusion.error import UserError
from dreamfusion.loss import Regularizer, total
from dreamfusion.randomness import Stream, step_generator
from dreamfusion.scene.lighting import Lighting
from dreamfusion.scene.shading import ALBEDO, LAMBERTIAN, TEXTURELESS
from dreamfusion.system import with_appearance
from dreamfusion.training.callbacks import Checkpoints, StopOnInterrupt
from dreamfusion.types import Conditioning, RenderOutput, TextEmbedding


class StopAfter(L.Callback):
    """Interrupt during the given step, as by Ctrl-C."""

    def __init__(self, stop, steps):
        self.stop, self.steps = stop, steps

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.steps - 1:
            self.stop.request.number = signal.SIGINT


class SaveAt(L.Callback):
    """Save a checkpoint after the given step."""

    def __init__(self, path, step):
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            Checkpoints(self.path, 0).save(trainer)


@pytest.mark.parametrize("ending", ["Ctrl-C", "killed"])
def test_a_resumed_run_ends_bit_equal_to_an_uninterrupted_one(make_system, tmp_path, ending):
    half, whole, resumed = (tmp_path / f"{name}.ckpt" for name in ("half", "whole", "resumed"))
    Checkpoints(whole, 0).save(train(make_system(), tmp_path, SaveAt(half, 3)))
    if ending == "Ctrl-C":
        stop = StopOnInterrupt()
        Checkpoints(half, 0).save(train(make_system(), tmp_path, stop, StopAfter(stop, 3)))
    assert state(half)["global_step"] == 3
    assert not torch.equal(
        state(half)["state_dict"]["scene.field.table"], state(whole)["state_dict"]["scene.field.table"]
    )

    torch.manual_seed(99)  # the global generator must have no effect
    Checkpoints(resumed, 0).save(train(make_system(), tmp_path, resume=half))
    assert_same(state(whole), state(resumed))


def test_the_occupancy_grid_and_adams_moments_are_in_the_checkpoint(make_system, tmp_path):
    path = tmp_path / "last.ckpt"
    system = make_system()
    Checkpoints(path, 0).save(train(system, tmp_path))
    content = torch.load(path, weights_only=True)  # plain data only
    assert torch.equal(content["state_dict"]["scene.renderer.grid.occs"], system.scene.renderer.grid.occs)
    assert torch.equal(content["state_dict"]["scene.renderer.grid.binaries"], system.scene.renderer.grid.binaries)
    assert not content["state_dict"]["scene.renderer.grid.binaries"].all()
    assert content["optimizer_states"][0]["state"][0]["exp_avg"].abs().max() > 0
    assert content["config"] == system.config
    assert not any("prior" in name or "distillation" in name for name in content["state_dict"])


def test_the_gradient_of_a_step_is_that_of_its_composed_parts(make_system, tmp_path):
    step = 4

    class Compare(L.Callback):
        """Compare before the optimizer step, in mid-run, with lighting and all terms."""

        def on_before_optimizer_step(self, trainer, system, optimizer):
            if trainer.global_step == step:
                self.actual = {name: p.grad.clone() for name, p in system.named_parameters()}
                self.expected = by_hand(system)

    def by_hand(system):
        progress = step / STEPS
        generator = step_generator(0, step, Stream.TRAINING)
        cameras = ORBIT.sample(progress, step_generator(0, step, Stream.CAMERAS))
        shading = system.lighting.draw(progress, generator)
        image = system.scene.render(cameras, shading, True, generator)
        conditioning = with_appearance(system.prompting.condition(system.text_table, cameras), image, shading)
        guidance = system.distillation(image.rgb, conditioning, progress, generator)
        terms = Regularizer(orientation=0.1 * progress, opacity=0.01)(system.scene, image, 0.0)
        loss = guidance.loss + total(terms, guidance.loss)
        parameters = dict(system.named_parameters())
        return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))

    compare = Compare()
    train(make_system(), tmp_path, compare)
    assert compare.actual.keys() == compare.expected.keys()
    for name, expected in compare.expected.items():
        torch.testing.assert_close(compare.actual[name], expected, msg=name)
    assert compare.expected["scene.field.table"].abs().max() > 0
    assert compare.expected["scene.background.network.0.weight"].abs().max() > 0


def test_the_appearance_of_a_view_is_the_grey_level_of_its_background_and_its_shading():
    backgrounds = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.1, 0.5, 0.3]])
    image = torch.zeros(3, 1, 2, 2)
    render = RenderOutput(image.expand(-1, 3, -1, -1), backgrounds, image, image, None)
    text = TextEmbedding(torch.zeros(3, 1, 1), torch.ones(3, 1, dtype=torch.bool))
    plain = Conditioning(text, text, ORBIT.view(torch.zeros(3), 0.0, 2, 2))
    for shading, code in ((ALBEDO, 0.0), (TEXTURELESS, -1.0), (LAMBERTIAN, 1.0)):
        appearance = with_appearance(plain, render, shading).appearance
        torch.testing.assert_close(appearance, torch.tensor([[-1.0, code], [1.0, code], [-0.4, code]]))


def test_the_statistics_of_a_step_are_means_over_its_views(make_system, tmp_path):
    system = make_system()
    metrics = train(system, tmp_path, steps=1).callback_metrics
    last = system.last_guidance
    assert metrics["noise_level"].item() == pytest.approx(last.noise_level.mean().item(), rel=1e-5)
    assert metrics["gradient_norm"].item() == pytest.approx(last.gradient_norm.mean().item(), rel=1e-5)
    assert metrics["opacity"].item() == pytest.approx(system.last_opacity.mean().item(), rel=1e-5)
    assert len(last.noise_level) == 2 and last.noise_level[0] != last.noise_level[1]
    assert not system.last_opacity.requires_grad and not system.last_background.requires_grad  # or a step's graph stays


def test_a_step_leaves_the_global_generator_as_it_is(make_system, tmp_path):
    class States(L.Callback):
        def on_train_batch_start(self, trainer, system, batch, batch_idx):
            self.before = torch.get_rng_state()

        def on_before_backward(self, trainer, system, loss):
            unchanged.append(torch.equal(torch.get_rng_state(), self.before))

    unchanged = []
    train(make_system(), tmp_path, States(), steps=4)  # of which some update the occupancy grid at random
    assert unchanged == [True] * 4


def test_seeds_differ_and_a_seed_repeats_itself(make_system, tmp_path):
    tables = []
    for seed in (0, 0, 1):
        system = make_system(seed=seed)
        train(system, tmp_path, steps=2)
        tables.append(system.scene.field.table.detach().clone())
    assert torch.equal(tables[0], tables[1])
    assert not torch.equal(tables[0], tables[2])


def test_the_scene_converges_to_the_priors_mean(make_system, make_scene, tiny_field, tmp_path):
    """mu = 0.5 of the prior's [-1, 1] is the level 0.75; no other light, background or term."""
    from dreamfusion.scene.background.solid import ConstantBackground

    system = make_system(
        scene=make_scene(tiny_field(strong=True), background=ConstantBackground([0.75] * 3)),
        lighting=Lighting(1.0, 0.0, 0.0, 0.1),
        regularizer=Regularizer(),
        optimization=option("optimizer/adam", warmup_steps=2),
    )
    cameras = replace(ORBIT, views=4, size=8).sample(0.0, step_generator(0, 0, Stream.CAMERAS))

    def distance():
        with torch.no_grad():
            return (system.scene.render(cameras).rgb - 0.75).abs().mean().item()

    before = distance()
    train(system, tmp_path, steps=40)
    assert distance() < 0.5 * before


def test_the_learning_rates_warm_up_and_fall_to_their_end(make_system, tmp_path):
    seen = []

    class Rates(L.Callback):
        def on_train_batch_start(self, trainer, system, batch, batch_idx):
            seen.append([group["lr"] for group in trainer.optimizers[0].param_groups])

    rates = {"table": 0.01, "network": 0.001}
    optimization = option("optimizer/adam", learning_rates=rates, warmup_steps=2, end=0.0)
    train(make_system(optimization=optimization), tmp_path, Rates())
    expected = [warm * (1 - step / STEPS) for step, warm in enumerate([0.5, 1, 1, 1, 1, 1])]
    assert [table for table, _ in seen] == pytest.approx([0.01 * e for e in expected])
    assert [network for _, network in seen] == pytest.approx([0.001 * e for e in expected])


def test_a_scene_that_is_no_longer_finite_is_not_saved(make_system, tmp_path):
    path = tmp_path / "last.ckpt"
    system = make_system()
    trainer = train(system, tmp_path, steps=1)
    Checkpoints(path, 0).save(trainer)
    good = path.read_bytes()
    with torch.no_grad():
        system.scene.field.table[3] = float("nan")
    with pytest.raises(UserError, match=r"training diverged before step 1: .* lower optimizer.learning_rates.table"):
        Checkpoints(path, 0).save(trainer)
    assert path.read_bytes() == good


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rates": {"table": 0.0}}, r"optimizer.learning_rates.table is 0.0; a learning rate must be above 0"),
        ({"end": -0.1}, r"optimizer.end is -0.1; this factor must be at least 0"),
    ],
)
def test_invalid_learning_rates_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        option("optimizer/adam", **changes)


def test_a_group_without_a_learning_rate_is_named(make_system, tmp_path):
    system = make_system(optimization=option("optimizer/adam"))
    system.optimization.learning_rates = {"table": 0.1}
    with pytest.raises(UserError, match=r"no learning rate for 'network'; type \+optimizer.learning_rates.network"):
        train(system, tmp_path, steps=1)


def test_a_regulariser_that_the_scene_does_not_have_is_named(make_system):
    with pytest.raises(ValueError, match="no term 'curvature' for this scene; it has opacity, entropy, smoothness"):
        make_system(regularizer=Regularizer(curvature=1.0))
