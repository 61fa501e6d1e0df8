"""Data-parallel training: two gloo processes on the CPU compared with one process on the same views."""

import multiprocessing
import os

import lightning as L
import pytest
import torch
from options import make_method, make_sds, option
from priors import GaussianPrior

from dreamfusion.camera.data import CameraData, CameraStream
from dreamfusion.camera.orbit import Orbit
from dreamfusion.cli.console import filter_messages
from dreamfusion.guidance.adapter import AdaptablePrior
from dreamfusion.loss import Regularizer
from dreamfusion.scene.background.learned import LearnedBackground
from dreamfusion.scene.gaussians.growth import Growth
from dreamfusion.scene.gaussians.scene import GaussianScene
from dreamfusion.scene.lighting import Lighting
from dreamfusion.scene.nerf.hashgrid import HashGridField
from dreamfusion.scene.nerf.occupancy import OccupancyRenderer
from dreamfusion.scene.nerf.scene import NeRF
from dreamfusion.system import DreamFusion

RANKS, STEPS, VIEWS, SIZE, SEED = 2, 3, 2, 8, 0
ORBIT = Orbit([-15, 75], [2.7, 3.3], False, [1.3, 1.4], 0.5, 0.1, 0.1, 0.1, [1, 2], VIEWS, 1, SIZE)
PATIENCE = 900  # seconds for all steps; a process waits forever for a failed one


def make_gaussians():
    torch.manual_seed(0)
    growth = Growth(every=2, until=1.0, share=0.3, split=0.1, faint=0.0)
    settings = {"count": 40, "most": 80, "degree": 0, "ball": 0.5, "opacity": 0.3, "growth": growth}
    return GaussianScene(option("background/constant"), radius=1.0, **settings)


def make_nerf():
    torch.manual_seed(0)
    field = HashGridField(
        radius=1.0, levels=3, features=2, log2_table_size=9, base_resolution=4, max_resolution=16, hidden=8,
        blob_density=5.0, blob_radius=0.5, density_scale=1.0, precision="auto", open_levels=1.0,
    )  # fmt: skip
    torch.nn.init.normal_(field.table, std=0.5)
    return NeRF(
        field,
        LearnedBackground(frequencies=2, hidden=8, layers=1, random_share=0.0),
        OccupancyRenderer(1.0, 8, 24, threshold=0.01, decay=0.9, update_every=2, warmup=2),
    )


class AdaptedPrior(AdaptablePrior, GaussianPrior):
    """One convolution, which gets an adapter of peft."""

    adapted_layers, sees_camera, sample_scale = ("conv",), True, 1.0

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self._network = torch.nn.Module()
        self._network.conv, self._network.dtype = torch.nn.Conv2d(3, 3, 1), torch.float32
        self._network.requires_grad_(False)

    def _denoise(self, noisy, timestep, branches):
        return tuple(self._network.conv(noisy) for _ in branches)


SCENES = {"nerf": make_nerf, "gaussians": make_gaussians, "adapted": make_nerf}


def make_system(kind="nerf"):
    scene = SCENES[kind]()
    prior, prompting = AdaptedPrior() if kind == "adapted" else GaussianPrior(), option("prompting/view_dependent")
    return DreamFusion(
        scene=scene,
        prompting=prompting,
        distillation=make_method("vsd", prior, learning_rate=0.1) if kind == "adapted" else make_sds(prior),
        text_table=prompting.encode(prior, "a cat"),
        config={},
        lighting=Lighting(albedo_until=0.0, lit=0.5 if kind == "nerf" else 0.0, textureless=0.5, ambient=0.1),
        regularizer=Regularizer(opacity=0.01),
        optimization=option(
            "optimizer/adam", learning_rates=dict.fromkeys(scene.parameter_groups(), 0.01), warmup_steps=2
        ),
        reference=None,
        seed=SEED,
    )


class Keep(L.Callback):
    """Record cameras and gradients of the first backward pass, and the final state."""

    def __init__(self):
        self.kept = {}

    def on_train_batch_start(self, trainer, system, batch, batch_idx):
        self.kept.setdefault("cameras", batch.camera_to_world)

    def on_after_backward(self, trainer, system):
        self.kept.setdefault("gradient", {name: p.grad.clone() for name, p in system.named_parameters()})

    def on_train_end(self, trainer, system):
        self.kept["end"] = {name: value.clone() for name, value in system.state_dict().items()}


def work(rank, folder, kind):
    """One rank, as started by Lightning's launcher or torchrun.

    Ranks rendezvous through a file, because a free port may be taken by another process before its use.
    """
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    os.environ["WORLD_SIZE"] = str(RANKS)
    torch.distributed.init_process_group("gloo", f"file://{folder / 'meeting'}", rank=rank, world_size=RANKS)
    torch.set_num_threads(1)
    filter_messages()
    keep = Keep()
    trainer = L.Trainer(
        accelerator="cpu", devices=RANKS, strategy="ddp", max_steps=STEPS, max_epochs=-1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, callbacks=[keep],
    )  # fmt: skip
    trainer.fit(make_system(kind), CameraData(ORBIT, STEPS, SEED))
    torch.save(keep.kept, folder / f"{rank}.pt")


def train(folder, kind):
    """Records of both ranks."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dreamfusion.mode.train", "dreamfusion.guidance.pocket"])
    processes = [context.Process(target=work, args=(rank, folder, kind), daemon=True) for rank in range(RANKS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
        assert process.exitcode == 0
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return train(tmp_path_factory.mktemp("ranks"), "nerf")


def test_all_ranks_double_the_same_gaussians(tmp_path):
    first, second = (kept["end"] for kept in train(tmp_path, "gaussians"))
    assert first["scene.count"] > 40
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0, msg=name)


def test_all_ranks_train_one_adapter(tmp_path):
    first, second = (kept["end"] for kept in train(tmp_path, "adapted"))
    moved = [name for name in first if "lora" in name and first[name].abs().max() > 0]
    assert len(moved) == 2, "both matrices"
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0, msg=name)


def test_each_rank_renders_different_views(ranks):
    for rank, kept in enumerate(ranks):
        alone = CameraStream(ORBIT, STEPS, SEED, rank=rank).batch(0)
        torch.testing.assert_close(kept["cameras"], alone.camera_to_world)
    assert not torch.equal(ranks[0]["cameras"], ranks[1]["cameras"])


def test_the_averaged_gradient_is_that_of_one_process_on_the_same_views(ranks, monkeypatch):
    system = make_system()
    monkeypatch.setattr(DreamFusion, "progress", 0.0)
    monkeypatch.setattr(system, "log", lambda *args, **kwargs: None)
    system.on_train_batch_start(None, 0)  # updates the grid for the first step
    for rank in range(RANKS):
        monkeypatch.setattr(DreamFusion, "global_rank", rank)
        cameras = CameraStream(ORBIT, STEPS, SEED, rank=rank).batch(0)
        (system.training_step(cameras, 0) / RANKS).backward()
    for name, parameter in system.named_parameters():
        assert parameter.grad.abs().max() > 0, name
        for kept in ranks:
            torch.testing.assert_close(kept["gradient"][name], parameter.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_all_ranks_end_with_one_scene_and_one_occupancy_grid(ranks):
    first, second = (kept["end"] for kept in ranks)
    assert any("renderer" in name for name in first)
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0, msg=name)
