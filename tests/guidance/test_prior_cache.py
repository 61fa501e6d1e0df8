"""The cache keeps one prior across runs with equal settings."""

import pytest
import torch
from omegaconf import OmegaConf

from dreamfusion.guidance import prior_cache as module
from dreamfusion.guidance.prior_cache import cached_prior


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch):
    monkeypatch.setattr(module, "_KEPT", {})


def named(text):
    return OmegaConf.create({"_target_": "fractions.Fraction", "numerator": text})


def test_equal_settings_reuse_the_prior_and_others_replace_it():
    first = cached_prior(named("1/2"))
    assert cached_prior(named("1/2")) is first
    assert cached_prior(named("1/3")) == pytest.approx(1 / 3)
    assert len(module._KEPT) == 1
    again = cached_prior(named("1/2"))
    assert again == first
    assert again is not first


def test_a_new_prior_leaves_the_random_numbers_of_the_scene_alone():
    drawn = []
    for _ in range(2):
        torch.manual_seed(5)
        cached_prior(OmegaConf.create({"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2}))
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)
