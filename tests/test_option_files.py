"""Runs of earlier versions: settings that they lack have the values of their options."""

import pytest
from omegaconf import OmegaConf

from dreamfusion.checkpoint import completed
from dreamfusion.option_files import added_since, options
from dreamfusion.runs.resume import resumed
from dreamfusion.runs.settings import plain

COMMANDS = (["guidance=pocket"], ["scene=gaussians"], ["distillation=vsd"], ["renderer=stratified"])


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_setting_that_came_after_the_run_has_the_value_of_its_option(command, compose_config):
    config, restored = plain(compose_config("prompt=a cat", *command)), 0
    for group, settings in config.items():
        if not isinstance(settings, dict) or "_target_" not in settings or group == "mode":
            continue
        alike = [own for own in options(group).values() if own.get("_target_") == settings["_target_"]]
        for name in settings.keys() - {"_target_"}:
            if any(own.get(name, settings) != settings[name] for own in alike):
                continue  # what tells options apart, or what another group sets
            older = config | {group: {key: value for key, value in settings.items() if key != name}}
            assert completed(older) == config, f"{group}.{name}"
            restored += 1
    assert restored > 60


def test_nested_settings_and_those_of_a_second_stage_are_restored_and_other_ones_left_alone(compose_config):
    config = plain(compose_config("prompt=a cat", "experiment=refine"))
    second = config["refine"]["scene"]
    templates = config["prompting"]["templates"]
    older = config | {
        "refine": config["refine"] | {"scene": {key: value for key, value in second.items() if key != "sphere"}},
        "prompting": config["prompting"] | {"templates": {"front": "seen by {prompt}", "own": "x"}},
    }
    found = completed(older)
    assert found["refine"] == config["refine"]
    assert found["prompting"]["templates"] == templates | {"front": "seen by {prompt}", "own": "x"}
    assert added_since("guidance", {"_target_": "own.Prior", "a": 1}) == {"_target_": "own.Prior", "a": 1}
    assert added_since("own", {"_target_": "own.Prior"}) == {"_target_": "own.Prior"}


def test_a_run_from_before_a_setting_of_the_prior_resumes(compose_config):
    config = plain(compose_config("prompt=a cat"))
    del config["guidance"]["cuda_graph"]
    longer = "trainer.max_steps=9"
    settings = resumed(OmegaConf.create(completed(config)), compose_config("prompt=a cat", longer), [longer])
    assert settings.guidance.cuda_graph is False and settings.trainer.max_steps == 9


@pytest.mark.parametrize("system", ["dreamfusion", "threestudio"])
def test_an_old_run_goes_on_without_a_regularizer_that_came_later(system, compose_config):
    cfg = OmegaConf.to_container(compose_config("prompt=x", f"system={system}"))
    del cfg["system"]["regularizer"]["depth_variance"]
    assert completed(cfg)["system"]["regularizer"] == cfg["system"]["regularizer"]
