"""Everything after the training runs where the scene is: on a stand-in device, with the results of a CPU."""

import copy

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from options import export_settings, option
from standin import DEVICE, StandIn

from dreamfusion.checkpoint import TrainedScene
from dreamfusion.mesh import extract
from dreamfusion.mesh.extract import extract_surface
from dreamfusion.ops import memory
from dreamfusion.report.turntable import turntable
from dreamfusion.scene import picture
from dreamfusion.scene.shading import ALBEDO
from dreamfusion.view.frame import View, render_frame

ORBIT = option("camera/orbit")


@pytest.fixture
def both(make_scene, tiny_field, monkeypatch):
    """A scene on the CPU, with the operations that the device has, and the same scene on the device."""
    monkeypatch.setenv("DREAMFUSION_OPS", "torch")
    here = make_scene(tiny_field(strong=True, blob_density=20.0)).eval().requires_grad_(False)
    with StandIn():
        yield here, copy.deepcopy(here).to(DEVICE)


def test_mesh_and_colours_are_those_of_a_cpu(both):
    settings = export_settings(resolution=12, texture=0, faces=0, threshold=2.0, blur=0, smoothing=0)
    here, there = (extract_surface(scene, ORBIT, settings).mesh for scene in both)
    assert both[1].device == DEVICE
    np.testing.assert_allclose(there.vertices, here.vertices, atol=1e-5)
    np.testing.assert_allclose(there.colors, here.colors, atol=1e-5)


def test_the_threshold_is_fitted_where_the_scene_is(both, monkeypatch):
    monkeypatch.setattr(extract, "VIEWS", 2)
    monkeypatch.setattr(extract, "SIZE", 16)
    here, there = (extract.fit_threshold(scene, ORBIT) for scene in both)
    assert there.threshold == pytest.approx(here.threshold, rel=1e-4) and there.opacity.device == DEVICE


def test_turntable_and_frames_of_the_window_are_those_of_a_cpu(both):
    view = View((0.0, 0.0, 3.0), (0.0, 0.0, -1.0), (0.0, -1.0, 0.0), 0.7, 24, 24)
    pictures, frames = [], []
    for scene in both:
        trained = TrainedScene(scene, ORBIT, OmegaConf.create(), 1, None)
        pictures.append(np.stack(list(turntable(trained, 2, 16))))
        frames.append(render_frame(scene, view.cameras(24).to(scene.device), ALBEDO))
    assert np.abs(pictures[0].astype(int) - pictures[1].astype(int)).max() <= 1
    np.testing.assert_allclose(frames[1].depth, frames[0].depth, atol=1e-4)


def test_a_strip_on_a_gpu_takes_a_part_of_its_free_memory(monkeypatch):
    monkeypatch.setattr(picture, "free_memory", lambda device: 40 * 2**30)
    assert picture.strip_bytes(torch.device("cuda")) == 10 * 2**30
    assert picture.strip_bytes(torch.device("cpu")) == picture.STRIP


@pytest.mark.parametrize(("accelerator", "chosen"), [("auto", "cuda"), ("gpu", "cuda"), ("cpu", "cpu"), ("mps", "cpu")])
def test_a_command_takes_the_device_of_the_trainer(monkeypatch, accelerator, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert memory.chosen_device(accelerator).type == chosen
