"""The training step against its parts by hand, and a run that goes on against one that never stopped."""

import lightning as L
import pytest
import torch
from training import ORBIT, STEPS, assert_same, state, train

from dreamfusion.error import UserError
from dreamfusion.loss import Regularizer, total
from dreamfusion.randomness import Stream, step_generator
from dreamfusion.scene.lighting import Lighting
from dreamfusion.system import with_look
from dreamfusion.training.callbacks import Checkpoints, StopOnInterrupt


class StopAfter(L.Callback):
    """Ctrl-C in the middle of the given step."""

    def __init__(self, stop, steps):
        self.stop, self.steps = stop, steps

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.stop.interrupted |= trainer.global_step == self.steps - 1


class SaveAt(L.Callback):
    """Checkpoints are also written on the way."""

    def __init__(self, path, step):
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            Checkpoints(self.path, 0).save(trainer)


@pytest.mark.parametrize("ending", ["by Ctrl-C", "without notice"])
def test_a_resumed_run_ends_bit_equal_to_one_that_never_stopped(make_system, tmp_path, ending):
    half, whole, resumed = (tmp_path / f"{name}.ckpt" for name in ("half", "whole", "resumed"))
    Checkpoints(whole, 0).save(train(make_system(), tmp_path, SaveAt(half, 3)))
    if ending == "by Ctrl-C":
        stop = StopOnInterrupt()
        Checkpoints(half, 0).save(train(make_system(), tmp_path, stop, StopAfter(stop, 3)))
    assert state(half)["global_step"] == 3
    assert not torch.equal(state(half)["state_dict"]["field.table"], state(whole)["state_dict"]["field.table"])

    torch.manual_seed(99)  # nothing may come from the state of the global generator
    Checkpoints(resumed, 0).save(train(make_system(), tmp_path, resume=half))
    assert_same(state(whole), state(resumed))


def test_the_occupancy_grid_and_adams_moments_are_in_the_checkpoint(make_system, tmp_path):
    path = tmp_path / "last.ckpt"
    system = make_system()
    Checkpoints(path, 0).save(train(system, tmp_path))
    content = torch.load(path, weights_only=True)  # nothing but data in it
    assert torch.equal(content["state_dict"]["renderer.grid.occs"], system.renderer.grid.occs)
    assert torch.equal(content["state_dict"]["renderer.grid.binaries"], system.renderer.grid.binaries)
    assert not content["state_dict"]["renderer.grid.binaries"].all()
    assert content["optimizer_states"][0]["state"][0]["exp_avg"].abs().max() > 0
    assert content["config"] == system.config
    assert not any("prior" in name or "distillation" in name for name in content["state_dict"])


def test_the_gradient_of_a_step_is_that_of_its_parts_by_hand(make_system, tmp_path):
    step, views = 4, 2

    class Compare(L.Callback):
        """Before the optimizer sees it, at a step in the middle, with light and all terms."""

        def on_before_optimizer_step(self, trainer, system, optimizer):
            if trainer.global_step == step:
                self.actual = {name: p.grad.clone() for name, p in system.named_parameters()}
                self.expected = by_hand(system)

    def by_hand(system):
        progress = step / STEPS
        generator = step_generator(0, step, Stream.TRAINING)
        cameras = ORBIT.sample(views, round(6 + 4 * progress), step_generator(0, step, Stream.CAMERAS))
        shading = system.lighting.draw(progress, generator)
        image = system.renderer(cameras, system.field, system.background, shading, True, generator)
        conditioning = system.prompting.condition(system.text_table, with_look(cameras, image, shading))
        guidance = system.distillation(image.rgb, conditioning, progress, generator)
        loss = guidance.loss + total(Regularizer(orientation=0.1 * progress, opacity=0.01)(image, 0.0), guidance.loss)
        parameters = dict(system.named_parameters())
        return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))

    compare = Compare()
    train(make_system(), tmp_path, compare)
    assert compare.actual.keys() == compare.expected.keys()
    for name, expected in compare.expected.items():
        torch.testing.assert_close(compare.actual[name], expected, msg=name)
    assert compare.expected["field.table"].abs().max() > 0
    assert compare.expected["background.network.0.weight"].abs().max() > 0


def test_seeds_differ_and_a_seed_repeats_itself(make_system, tmp_path):
    tables = []
    for seed in (0, 0, 1):
        system = make_system(seed=seed)
        train(system, tmp_path, steps=2)
        tables.append(system.field.table.detach().clone())
    assert torch.equal(tables[0], tables[1])
    assert not torch.equal(tables[0], tables[2])


def test_the_scene_comes_to_look_like_the_priors_mean(make_system, tmp_path):
    """mu = 0.5 of the prior's [-1, 1] is the level 0.75; no other light, background or term."""
    from dreamfusion.scene.background.solid import ConstantBackground

    system = make_system(
        background=ConstantBackground([0.75] * 3),
        lighting=Lighting(1.0, 0.0, 0.0, 0.1),
        regularizer=Regularizer(),
        size=8,
        table_learning_rate=0.05,
    )
    cameras = ORBIT.sample(4, 8, step_generator(0, 0, Stream.CAMERAS))

    def distance():
        with torch.no_grad():
            return (system.renderer(cameras, system.field, system.background).rgb - 0.75).abs().mean().item()

    before = distance()
    train(system, tmp_path, steps=40)
    assert distance() < 0.5 * before


def test_the_learning_rates_warm_up_and_fall_to_their_end(make_system, tmp_path):
    seen = []

    class Rates(L.Callback):
        def on_train_batch_start(self, trainer, system, batch, batch_idx):
            seen.append([group["lr"] for group in trainer.optimizers[0].param_groups])

    train(make_system(learning_rate_end=0.0), tmp_path, Rates())
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
        system.field.table[3] = float("nan")
    with pytest.raises(UserError, match=r"training diverged before step 1: .* lower system.table_learning_rate"):
        Checkpoints(path, 0).save(trainer)
    assert path.read_bytes() == good


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"views": 0}, ValueError, r"system.views is 0"),
        ({"size": "large"}, TypeError, "finite numbers, got 'large'"),
    ],
)
def test_bad_settings_are_named(make_system, change, error, message):
    with pytest.raises(error, match=message):
        make_system(**change)
