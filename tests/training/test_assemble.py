"""Settings that Lightning allows and a run does not."""

import pytest
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import OmegaConf

from dreamfusion.error import UserError
from dreamfusion.guidance import prior_cache
from dreamfusion.paths import CONFIGURATION
from dreamfusion.runs.check import check_settings, check_trainer
from dreamfusion.runs.dream import Outputs, dream
from dreamfusion.training.assemble import assemble, user_errors

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


@pytest.mark.parametrize(
    ("group", "base"), [("camera", "dreamfusion.camera.orbit.Orbit"), ("scene", "dreamfusion.scene.base.Scene")]
)
def test_cameras_and_a_scene_of_another_kind_are_refused_before_anything_is_written(
    group, base, compose_config, tmp_path
):
    cfg = compose_config("prompt=a cat", "field.levels=2", "field.log2_table_size=8")
    cfg[group]._target_ = "builtins.dict"
    outputs = Outputs(**{name: value for name, value in cfg.mode.items() if not name.startswith("_")})
    name = base.rpartition(".")[2]
    with pytest.raises(UserError, match=rf"^{group} makes a dict, which is no {name}; derive its class from {base} "):
        dream(cfg, tmp_path / "run", outputs)
    assert not any(path.is_file() for path in tmp_path.rglob("*") if not path.name.startswith("."))
