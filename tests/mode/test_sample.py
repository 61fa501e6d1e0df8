"""`mode=sample` with the pocket prior's real weights, in two steps."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from PIL import Image
from priors import GaussianPrior

from dreamfusion.cli.dispatch import run_mode
from dreamfusion.cli.resolvers import register
from dreamfusion.mode import sample as module
from dreamfusion.mode.sample import sample_views

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture
def configure(tmp_path):
    """Compose conf/ with overrides for a run folder, as `launch.py` does."""
    register()

    def with_overrides(*overrides):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose(
                "config", [*overrides, f"hydra.runtime.output_dir={tmp_path / 'run'}"], return_hydra_config=True
            )
        HydraConfig.instance().set_config(cfg)
        return cfg

    yield with_overrides
    HydraConfig.instance().cfg = None


@pytest.fixture(scope="module")
def views():
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", ["mode=sample"])
    prior, prompting, orbit = (instantiate(cfg[part]) for part in ("guidance", "prompting", "camera"))

    def sample(batch_size=8, seed=0, prompt="a hamburger"):
        around = torch.tensor([0.0, 90.0, 180.0])
        return sample_views(prior, prompting, orbit, prompt, around, 15.0, 2, 2, 3.0, batch_size, seed)

    return sample


def test_the_sheet_has_a_row_per_sample_and_a_column_per_azimuth(configure, tmp_path):
    path = run_mode(configure("mode=sample", "prompt=a hamburger", "mode.azimuths=3", "mode.steps=2"))
    assert path == tmp_path / "run" / "samples.png"
    with Image.open(path) as sheet:
        assert sheet.size == (3 * 128 + 2 * 4, 2 * 128 + 4)


def test_samples_depend_on_the_seed_and_not_on_the_batch_size(views):
    pictures = views()
    assert pictures.shape == (6, 64, 64, 3)
    np.testing.assert_array_equal(views(), pictures)
    assert np.abs(views(batch_size=4).astype(int) - pictures).max() <= 1  # another order of summation
    assert np.abs(views(seed=1).astype(int) - pictures).max() > 20


def test_coupled_views_stay_together_in_a_batch_and_stand_in_order_of_azimuth(configure, monkeypatch, tmp_path):
    """The prior's picture of a view is its azimuth as a grey level."""
    batches = []

    class CoupledPrior(GaussianPrior):
        views = 4

    def sampled(prior, conditioning, start, scale, steps):
        azimuth = conditioning.cameras.azimuth
        batches.append((azimuth.round().int().tolist(), start))
        return (azimuth / 360).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)

    monkeypatch.setattr(module, "sample_images", sampled)
    build = module.instantiate
    monkeypatch.setattr(module, "instantiate", lambda cfg: CoupledPrior() if "guidance_scale" in cfg else build(cfg))
    run_mode(configure("mode=sample", "prompt=a cat", "mode.samples=1", "mode.batch_size=6"))
    assert [azimuths for azimuths, _ in batches] == [[0, 90, 180, 270], [45, 135, 225, 315]]
    assert all(len(start.unique(dim=0)) == 4 for _, start in batches)
    with Image.open(tmp_path / "run" / "samples.png") as sheet:
        row = np.asarray(sheet)[64, 64 :: 128 + 4, 0]
    assert (np.diff(row.astype(int)) > 0).all()


def test_views_and_prompts_change_the_pictures(views):
    pictures = views().astype(int)
    assert np.abs(pictures[0] - pictures[2]).max() > 4  # the same noise, front and back view
    assert np.abs(pictures - views(prompt="a blue cat")).mean() > 4


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["prompt=null"], 'there is no prompt; type prompt="a cat"'),
        (["prompt=a cat", "mode.steps=0"], "mode.steps is 0; it must be a whole number of at least 1"),
        (["prompt=a cat", "guidance.weights=/nowhere"], "guidance.weights=/nowhere: no such file or folder"),
    ],
)
def test_bad_settings_give_one_sentence(configure, overrides, message):
    with pytest.raises(SystemExit, match=message):
        run_mode(configure("mode=sample", *overrides))
