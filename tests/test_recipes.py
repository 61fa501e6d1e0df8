"""A prior brings its recipe, and whatever the user chooses wins."""

import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra.utils import instantiate
from launched import ROOT
from omegaconf import OmegaConf

from dreamfusion.loss import IMAGE_TERMS
from dreamfusion.runs.refine import second_stage
from dreamfusion.schedule import schedule


def test_the_laptops_prior_keeps_the_default_options(compose_config):
    cfg = compose_config("prompt=x")
    assert (cfg.trainer.max_steps, cfg.camera.views, cfg.field.max_resolution) == (300, 2, 96)
    assert "recipe" not in cfg


def test_a_recipe_or_published_numbers_bring_no_term_of_ours(compose_config):
    for chosen in ("guidance=sd", "guidance=mvdream", "guidance=zero123", "experiment=paper", "experiment=magic3d",
                   "experiment=prolificdreamer", "guidance=clip", "experiment=fit"):  # fmt: skip
        weights = compose_config("prompt=x", chosen).system.regularizer
        assert (weights.depth_variance, weights.smoothness) == (0, 0), chosen


@pytest.mark.parametrize("guidance", ["pocket", "sd", "sdxl", "sd3", "deepfloyd", "mvdream", "zero123", "clip"])
@pytest.mark.parametrize("scene", ["mesh", "gaussians"])
def test_scenes_without_rays_have_no_term_of_a_nerf_with_any_recipe(scene, guidance, compose_config):
    terms = compose_config("prompt=x", f"scene={scene}", f"guidance={guidance}").system.regularizer
    assert (terms.orientation, terms.opacity, terms.entropy) == (0, 0, 0)
    stage = second_stage(compose_config("prompt=x", "experiment=refine", f"guidance={guidance}"), Path("last.ckpt"))
    assert stage.system.regularizer.orientation == 0


def test_stable_diffusion_alone_composes_threestudios_numbers(compose_config):
    cfg = compose_config("prompt=x", "guidance=sd")
    assert cfg.recipe.name == "threestudio dreamfusion-sd"
    assert cfg.trainer.max_steps == 10000
    assert (list(cfg.camera.elevation), list(cfg.camera.distance)) == ([-10, 45], [1.5, 2.0])
    assert (cfg.field.levels, cfg.field.log2_table_size, cfg.field.radius) == (16, 19, 2.0)
    assert (cfg.background._target_.rpartition(".")[2], cfg.background.random_share) == ("LearnedBackground", 0)
    assert (cfg.distillation.min_timestep, cfg.distillation.max_timestep) == (0.02, 0.98)
    orientation = schedule(cfg.system.regularizer.orientation)
    assert [orientation(progress) for progress in (0.0, 0.25, 0.5, 1.0)] == [10, 505, 1000, 1000]
    assert (cfg.system.regularizer.opacity, cfg.system.regularizer.entropy) == (1.0, 0.0)
    assert (cfg.optimizer.end, cfg.optimizer.learning_rates.table) == (1.0, 0.01)


def test_deepfloyd_is_the_same_with_views_from_above(compose_config):
    sd, deepfloyd = (compose_config("prompt=x", f"guidance={name}") for name in ("sd", "deepfloyd"))
    assert list(deepfloyd.camera.elevation) == [-10, 90]
    for group in ("field", "background", "system", "optimizer", "trainer"):
        assert deepfloyd[group] == sd[group]


def test_a_users_choice_wins_in_any_order(compose_config):
    chosen = ("guidance=sd", "camera=orbit", "system.regularizer.opacity=7.0", "trainer.max_steps=12")
    rotated = [chosen[turn:] + chosen[:turn] for turn in range(len(chosen))]
    # Each two choices in both orders, each choice first and last.
    composed = [compose_config("prompt=x", *order[::way]) for order in rotated for way in (1, -1)]
    assert all(cfg == composed[0] for cfg in composed)
    cfg = composed[0]
    assert cfg.camera == compose_config("prompt=x").camera
    assert (cfg.system.regularizer.opacity, cfg.trainer.max_steps) == (7.0, 12)
    assert cfg.field.levels == 16


def test_a_method_with_a_schedule_of_its_own_keeps_it(compose_config):
    for guidance in ("pocket", "sd"):
        cfg = compose_config("prompt=x", f"guidance={guidance}", "distillation=hifa")
        assert list(cfg.distillation.max_timestep[0]) == [0.0, 0.98]
        assert list(cfg.distillation.max_timestep[1]) == [1.0, 0.3]
    assert compose_config("prompt=x", "guidance=sd", "distillation=csd").distillation.min_timestep == 0.02


def test_an_experiment_is_composed_over_the_recipe(compose_config):
    cfg = compose_config("prompt=x", "guidance=sd", "experiment=smoke")
    assert cfg.trainer.max_steps == 2
    assert cfg.field.levels == 4


def test_the_papers_experiment_takes_nothing_from_the_recipe(compose_config):
    cfg = compose_config("prompt=x", "experiment=paper")
    assert cfg.recipe.name == "Poole et al. 2022"
    assert (cfg.renderer.steps, cfg.optimizer.end, cfg.optimizer.warmup_steps) == (96, 0.1, 20)
    assert (cfg.field.blob_density, cfg.field.max_resolution, cfg.camera.views) == (5.0, 2048, 4)
    assert (cfg.distillation.min_timestep, cfg.distillation.guidance_scale) == (0.02, 101.0)


def test_stable_diffusion_on_a_laptop_is_one_view_of_256_pixels_for_some_hundred_steps(compose_config):
    cfg = compose_config("prompt=x", "experiment=sd_laptop")
    assert cfg.recipe.name == "threestudio dreamfusion-sd"
    assert (cfg.guidance.resolution, cfg.camera.views, cfg.trainer.max_steps) == (256, 1, 600)
    assert schedule(cfg.distillation.max_timestep)(1.0) == 0.5
    assert (cfg.field.levels, cfg.optimizer.learning_rates.table) == (16, 0.05)


def test_a_prior_without_a_recipe_takes_the_defaults(compose_config):
    cfg = compose_config("prompt=x", "guidance=mixture")
    assert cfg.camera == compose_config("prompt=x").camera


def test_mvdream_alone_composes_its_cameras_texts_and_loss(compose_config):
    cfg = compose_config("prompt=x", "guidance=mvdream")
    assert (cfg.camera.group, cfg.camera.views) == (4, 4)
    assert cfg.prompting._target_.endswith("PlainPrompting")
    assert (cfg.distillation.weighting, cfg.distillation.rescale) == ("reconstruction", 0.5)
    assert cfg.field.levels == 16


def test_dreamgaussians_numbers_are_the_published_ones(compose_config):
    """Tang et al. 2024, configs/text.yaml and main.py of their code; steps as shares of 500."""
    cfg = compose_config("prompt=x", "experiment=dreamgaussian")
    scene, size = instantiate(cfg.copy().scene), schedule(cfg.camera.size)
    assert (cfg.trainer.max_steps, cfg.camera.views, cfg.distillation.guidance_scale) == (500, 1, 100.0)
    assert [int(size(step / 500)) for step in (0, 149, 150, 299, 300, 499)] == [128, 128, 256, 256, 512, 512]
    fov = math.degrees(2 * math.atan(0.5 / cfg.camera.focal[0]))
    assert (list(cfg.camera.elevation), list(cfg.camera.distance), fov) == (
        [-30, 30],
        [2.5, 2.5],
        pytest.approx(49.1, abs=0.01),
    )
    for name in ("min_timestep", "max_timestep"):
        t = schedule(cfg.distillation[name])
        assert [t(progress) for progress in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([0.98, 0.75, 0.5, 0.02])
    grown = [step for step in range(501) if scene.growth.due(step, step / 500)]
    assert (scene.begin, scene.growth.faint, grown) == (5000, 0.01, [*range(50, 501, 50)])
    assert scene.growth.split == 0.01 * 4  # percent_dense times the extent
    position = schedule(cfg.optimizer.learning_rates.position)
    for step in range(0, 301, 10):  # 10 x 0.001 to 10 x 0.00002, exponentially; 10 is their scale of the scene
        assert position(step / 500) == pytest.approx(0.01 * 0.02 ** (step / 300), rel=0.13)
    assert position(1.0) == 0.0002
    rates = cfg.optimizer.learning_rates
    assert (rates.opacity, rates.scale, rates.rotation) == (0.05, 0.005, 0.005)
    assert rates.color / 4 == pytest.approx(0.01 * 0.2821, rel=0.15)  # of logits at grey, and of harmonics of degree 0


def test_prolificdreamers_numbers_are_those_of_threestudio(compose_config):
    """configs/prolificdreamer.yaml; steps as shares of 25,000."""
    cfg, sd = (compose_config("prompt=x", chosen) for chosen in ("experiment=prolificdreamer", "guidance=sd"))
    regularizer = instantiate(cfg.system.regularizer)
    size, t_max, entropy = (
        schedule(each) for each in (cfg.camera.size, cfg.distillation.max_timestep, cfg.system.regularizer.entropy)
    )
    assert (cfg.trainer.max_steps, cfg.field.radius, list(cfg.camera.distance)) == (25000, 1.0, [1.0, 1.5])
    assert (cfg.camera.position_jitter, cfg.camera.look_at_std, cfg.camera.up_std) == (0, 0, 0)
    assert cfg.background.random_share == 0.5  # its random_aug
    assert [(size(step / 25000), t_max(step / 25000)) for step in (4999, 5000)] == [(64, 0.98), (512, 0.5)]
    p = torch.tensor([[[[0.3]]]])
    nats = torch.nn.functional.binary_cross_entropy(p, p)
    bits = IMAGE_TERMS["entropy"].penalty(SimpleNamespace(opacity=p))
    assert entropy(9999 / 25000) == 0 and entropy(0.4) * float(bits) == pytest.approx(1000 * float(nats), rel=1e-3)
    assert [regularizer.weights[name](0.5) for name in ("orientation", "opacity", "smoothness")] == [0, 10, 0]
    assert (cfg.prompting.front, cfg.prompting.back, cfg.system.lighting.lit) == (30, 150, 0)
    assert cfg.distillation._target_.endswith("VSD") and cfg.optimizer.optimizer._target_ == "torch.optim.AdamW"
    assert cfg.optimizer.learning_rates == sd.optimizer.learning_rates
    assert (list(cfg.camera.focal), cfg.renderer.steps) == (list(sd.camera.focal), sd.renderer.steps)


def test_magic3ds_numbers_are_those_of_threestudio(compose_config):
    """configs/magic3d-coarse-sd.yaml and magic3d-refine-sd.yaml."""
    cfg, sd = (compose_config("prompt=x", chosen) for chosen in ("experiment=magic3d", "guidance=sd"))
    assert {**cfg.distillation} == {**sd.distillation, "weighting": "uniform"}
    for group in ("camera", "system", "optimizer", "trainer", "background"):
        assert cfg[group] == sd[group]
    assert cfg.field == {**sd.field, "open_levels": 1.0}
    second = second_stage(cfg, Path("start"))
    fovs = sorted(math.degrees(2 * math.atan(0.5 / focal)) for focal in second.camera.focal)
    assert (second.camera.size, fovs) == (512, pytest.approx([30, 45], abs=0.01))
    assert (second.scene.resolution, second.trainer.max_steps, second.field.open_levels) == (128, 5000, 1.0)
    t = second.distillation.min_timestep, second.distillation.max_timestep
    assert (t, second.distillation.weighting) == ((0.02, 0.5), "sigma2")
    weights = {name: weight for name, weight in second.system.regularizer.items() if weight and name != "_target_"}
    assert weights == {"normal_consistency": 10000.0, "eikonal": 1.0}
    assert second.start == "start" and second.camera.distance == sd.camera.distance


def test_stable_diffusion_3_alone_composes_the_published_settings_of_rfds(compose_config):
    cfg = compose_config("prompt=x", "guidance=sd3")
    assert (cfg.distillation.weighting, cfg.guidance.guidance_scale) == ("flow", 100.0)
    assert (cfg.distillation.min_timestep, cfg.distillation.max_timestep) == (0.02, 0.7)
    assert cfg.camera == compose_config("prompt=x", "guidance=sd").camera


def test_clip_alone_composes_its_loss(compose_config):
    cfg = compose_config("prompt=x", "guidance=clip")
    assert cfg.distillation._target_.endswith("ClipSimilarity")


def test_pixel_space_without_clamping_as_published(compose_config):
    """x0_hat clamped at the paper's scale of 101 leaves 0.14 to 0.21 of the gradient's norm."""
    for choice in ("experiment=paper", "guidance=deepfloyd"):
        assert compose_config("prompt=x", choice).distillation.clip is False
    assert compose_config("prompt=x").distillation.clip is None


def test_a_prior_of_ones_own_has_no_recipe_or_one_of_its_own(compose_config, tmp_path):
    """In a folder that --config-dir names."""

    def composed():
        command = [
            sys.executable,
            str(ROOT / "launch.py"),
            "--config-dir",
            str(tmp_path),
            "guidance=mine",
            "--cfg",
            "job",
        ]
        return OmegaConf.create(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    for group, text in {"guidance": "_target_: mine.Prior", "recipe": "defaults: [sd, _self_]\nseed: 3"}.items():
        (tmp_path / group).mkdir()
        (tmp_path / group / "mine.yaml").write_text(
            f"# @package _{'global' if group == 'recipe' else 'group'}_\n{text}\n"
        )
        cfg = composed()
        expected = compose_config("guidance=sd" if group == "recipe" else "guidance=mixture")
        assert (cfg.camera, cfg.timesteps) == (expected.camera, expected.timesteps)
    assert cfg.seed == 3


@pytest.mark.parametrize("guidance", ["sd", "sdxl", "sd3", "mvdream", "deepfloyd", "clip"])
def test_the_parts_of_a_recipe_can_be_built(guidance, compose_config):
    cfg = compose_config("prompt=x", f"guidance={guidance}")
    orbit = instantiate(cfg.camera)
    scene = instantiate(cfg.scene, field={"log2_table_size": 12})
    instantiate(cfg.system)
    instantiate(cfg.optimizer)
    assert (scene.field.radius, orbit.views) == (1.0 if guidance == "mvdream" else 2.0, orbit.group)
