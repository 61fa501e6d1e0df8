"""Settings that Lightning allows and a run does not."""

import pytest
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import OmegaConf

from dreamfusion.error import UserError
from dreamfusion.guidance import prior_cache
from dreamfusion.paths import CONFIGURATION
from dreamfusion.runs.check import check_settings, check_trainer
from dreamfusion.runs.dream import Outputs, dream
from dreamfusion.training.assemble import assemble, callbacks_of, loggers_of, user_errors

DEFAULT = OmegaConf.load(CONFIGURATION / "trainer" / "default.yaml")


@pytest.mark.parametrize("changes", [{}, {"precision": 16}, {"precision": "bf16-mixed"}, {"gradient_clip_val": 0.5}])
def test_settings_of_a_run_pass(changes):
    check_trainer(OmegaConf.merge(DEFAULT, changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_steps": 0}, "trainer.max_steps is 0; it must be a whole number of at least 1"),
        ({"log_every_n_steps": 0}, "trainer.log_every_n_steps is 0; it must be a whole number of at least 1"),
        ({"precision": 64}, "trainer.precision is 64; weights are float32: type trainer.precision=32-true"),
        ({"precision": "bf16-true"}, "trainer.precision is bf16-true"),
        ({"precision": "16-true"}, "trainer.precision is 16-true"),
        ({"precision": [16]}, r"trainer.precision is \[16\]"),
        ({"max_epochs": 0}, "trainer.max_epochs is 0; a run ends by steps: type trainer.max_steps=300"),
        ({"limit_train_batches": 2}, "trainer.limit_train_batches is 2, which would repeat the first cameras"),
        ({"overfit_batches": 1}, "trainer.overfit_batches is 1, which would repeat the first cameras"),
        ({"accumulate_grad_batches": 2}, "trainer.accumulate_grad_batches is 2; a step is one batch"),
        ({"gradient_clip_val": -1}, "trainer.gradient_clip_val is -1; it must be above 0, or null"),
    ],
)
def test_settings_that_change_what_a_step_or_the_end_of_a_run_is_are_refused(changes, message):
    with pytest.raises(UserError, match=f"^{message}"):
        check_trainer(OmegaConf.merge(DEFAULT, changes))


@pytest.mark.parametrize(
    "error", [ValueError("why"), TypeError("why"), ImportError("why"), MisconfigurationException("why")]
)
def test_errors_about_settings_are_the_users(error):
    with pytest.raises(UserError, match="why"), user_errors():
        raise error


def test_limits_of_the_gradient_that_do_not_go_with_a_scaled_loss_are_named(compose_config):
    half = "trainer.precision=16-mixed"
    for changes in ([half], ["trainer.gradient_clip_val=1.0"], ["distillation.clip_pixels=0.1"]):
        check_settings(compose_config("prompt=x", *changes))
    check_settings(compose_config("prompt=x", half, "trainer.gradient_clip_val=1.0", "optimizer.optimizer.fused=false"))
    with pytest.raises(UserError, match=r"type optimizer\.optimizer\.fused=false, or trainer\.precision=bf16-mixed"):
        check_settings(compose_config("prompt=x", half, "trainer.gradient_clip_val=1.0"))
    with pytest.raises(UserError, match=r"clip_pixels would limit the scaled gradient of trainer\.precision=16-mixed"):
        check_settings(compose_config("prompt=x", half, "distillation.clip_pixels=0.1"))


def test_a_run_after_one_with_an_adapter_has_the_priors_own_layers(compose_config, monkeypatch):
    monkeypatch.setattr(prior_cache, "_KEPT", {})
    small = ["prompt=a cat", "field.levels=2", "field.log2_table_size=8"]
    prior = assemble(compose_config(*small, "distillation=vsd")).distillation.prior
    assert any("lora" in name for name, _ in prior._network.named_parameters())
    assert assemble(compose_config(*small)).distillation.prior is prior
    assert not any("lora" in name for name, _ in prior._network.named_parameters())


BASES = {
    "camera": "dreamfusion.camera.orbit.Orbit",
    "scene": "dreamfusion.scene.base.Scene",
    "prompting": "dreamfusion.prompting.table.Prompting",
    "distillation": "dreamfusion.distillation.base.Distillation",
}


@pytest.mark.parametrize("group", BASES)
def test_a_class_of_another_kind_is_refused_before_anything_is_written(group, compose_config, tmp_path):
    cfg = compose_config("prompt=a cat", "field.levels=2", "field.log2_table_size=8")
    cfg[group]._target_ = "builtins.dict"
    outputs = Outputs(**{name: value for name, value in cfg.mode.items() if not name.startswith("_")})
    base = BASES[group]
    name = base.rpartition(".")[2]
    with pytest.raises(UserError, match=rf"^{group} makes a dict, which is no {name}; derive its class from {base} "):
        dream(cfg, tmp_path / "run", outputs)
    assert not any(path.is_file() for path in tmp_path.rglob("*") if not path.name.startswith("."))


def test_callbacks_of_another_kind_are_refused():
    settings = {"rates": {"_target_": "lightning.pytorch.callbacks.LearningRateMonitor"}}
    assert [type(one) for one in callbacks_of(OmegaConf.create({"callbacks": settings}))] == [LearningRateMonitor]
    settings["own"] = {"_target_": "types.SimpleNamespace"}
    with pytest.raises(UserError, match=r"^callbacks\.own makes a SimpleNamespace, which is no Callback; derive its"):
        callbacks_of(OmegaConf.create({"callbacks": settings}))


@pytest.mark.parametrize(
    ("made", "reason"), [(None, "NoneType, which is no list "), ([3], "int, which is no Logger; ")]
)
def test_loggers_of_another_kind_are_refused(made, reason, tmp_path, monkeypatch):
    monkeypatch.setattr("dreamfusion.training.assemble.instantiate", lambda settings: lambda folder, name: made)
    with pytest.raises(UserError, match=f"^logger makes a {reason}"):
        loggers_of(OmegaConf.create({"logger": None, "prompt": "a cat"}), tmp_path)


def test_a_prior_that_lacks_members_is_refused(compose_config, monkeypatch):
    monkeypatch.setattr(prior_cache, "_KEPT", {})
    cfg = compose_config("prompt=a cat")
    cfg.guidance = {"_target_": "types.SimpleNamespace", "name": "own", "views": 1, "decode": 0, "to": 0}
    with pytest.raises(UserError, match=r"makes a SimpleNamespace, which lacks resolution, alphas_cumprod, .*en"):
        assemble(cfg)
