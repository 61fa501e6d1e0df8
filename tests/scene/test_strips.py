"""Evaluation renders in strips: the picture of the whole, and no strip above the bound in bytes."""

import weakref
from types import SimpleNamespace

import pytest
import torch
from options import option
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dreamfusion.evaluation.prior_score import prior_score
from dreamfusion.mesh.extract import VIEWS, fit_threshold
from dreamfusion.mode.sheet import around
from dreamfusion.scene import picture
from dreamfusion.scene.background.learned import LearnedBackground
from dreamfusion.scene.nerf.occupancy import OccupancyRenderer
from dreamfusion.scene.nerf.scene import NeRF
from dreamfusion.scene.nerf.stratified import StratifiedRenderer
from dreamfusion.scene.shading import ALBEDO, LAMBERTIAN
from dreamfusion.training.callbacks import Previews
from dreamfusion.view.frame import render_frame

ORBIT = option("camera/orbit")
BOUND = 12_000_000


class Peak(TorchDispatchMode):
    """The largest number of bytes of all tensors that exist at one time."""

    def __init__(self):
        super().__init__()
        self.live, self.peak, self.sizes = 0, 0, {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.sizes:
                    self.sizes[storage._cdata] = storage.nbytes()
                    weakref.finalize(storage, self._freed, storage._cdata)
                    self.live += storage.nbytes()
                    self.peak = max(self.peak, self.live)
        return out

    def _freed(self, place):
        self.live -= self.sizes.pop(place, 0)


@pytest.fixture
def dense(make_scene, tiny_field):
    """A scene in which every cell is occupied, so that every ray takes all its samples."""
    return make_scene(tiny_field(strong=True))


@pytest.fixture
def rendered(monkeypatch):
    """The bytes that each evaluation render may need, by `bytes_per_ray`."""
    needs, render = [], NeRF.render

    def counted(self, cameras, shading, with_normal, rows, background):
        lines = len(range(cameras.height)[rows])
        per_ray = self.bytes_per_ray(with_normal or shading.needs_normal)
        needs.append(len(cameras) * lines * cameras.width * per_ray)
        return render(self, cameras, shading, with_normal, rows=rows, background=background)

    monkeypatch.setattr(NeRF, "render", counted)
    monkeypatch.setattr(picture, "STRIP", BOUND)
    return needs


def test_strips_give_the_images_of_the_whole(dense, monkeypatch):
    cameras = ORBIT.view(torch.tensor([0.0, 100.0]), 15.0, 23, 23)
    whole = dense.render(cameras, LAMBERTIAN, with_normal=True)
    monkeypatch.setattr(picture, "STRIP", 7 * 23 * dense.bytes_per_ray(True))
    pieces = picture.render_views(dense, cameras, LAMBERTIAN, with_normal=True)
    for name in ("rgb", "opacity", "depth", "normal", "background"):
        torch.testing.assert_close(getattr(pieces, name), getattr(whole, name).detach(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("renderer", [OccupancyRenderer(1.0, 8, 24, 0.01, 0.9, 2, 2), StratifiedRenderer(1.0, 24)])
@pytest.mark.parametrize("with_normal", [False, True])
def test_a_ray_needs_no_more_than_its_bytes_in_the_composition_of_operations(
    tiny_field, renderer, with_normal, monkeypatch
):
    monkeypatch.setenv("DREAMFUSION_OPS", "torch")  # as on a device without kernels
    background = LearnedBackground(frequencies=2, hidden=8, layers=1, random_share=0.5)
    scene = NeRF(tiny_field(levels=16, hidden=64), background, renderer)
    cameras = ORBIT.view(torch.zeros(1), 15.0, 48, 48)
    with torch.no_grad(), Peak() as peak:
        scene.render(cameras, with_normal=with_normal)
    assert peak.peak <= 48 * 48 * scene.bytes_per_ray(with_normal)


def test_many_views_take_the_memory_of_one_strip_and_of_the_images(dense, monkeypatch):
    monkeypatch.setenv("DREAMFUSION_OPS", "torch")
    monkeypatch.setattr(picture, "STRIP", BOUND)
    cameras = ORBIT.view(torch.linspace(0, 300, 6), 15.0, 96, 96)
    with Peak() as peak:
        picture.render_views(dense, cameras)
    assert 6 * 96 * 96 * dense.bytes_per_ray(False) > 8 * BOUND
    assert peak.peak <= BOUND + 2 * 6 * 5 * 96 * 96 * 4  # the images, and their strips before they are joined


def test_every_evaluation_render_is_bounded(dense, make_system, rendered, tmp_path):
    system = make_system(scene=dense)
    system.distillation.prior.resolution = 150
    prior_score(system, ORBIT, 3)
    Previews(ORBIT, tmp_path, every=1, size=48).write(system, 0)
    fit_threshold(dense, ORBIT)
    picture.render_picture(dense, ORBIT.view(torch.zeros(1), 0.0, 96, 96))
    around(SimpleNamespace(scene=dense, camera=ORBIT), ["opacity"], 2, 150, 15.0)
    assert len(rendered) > 3 + 4 + 4 + VIEWS + 1 + 2
    assert max(rendered) <= BOUND


def test_a_scene_of_ones_own_has_a_bound_without_naming_one():
    from dreamfusion.scene.base import Scene

    assert Scene.bytes_per_ray(None, with_normal=True) > 0


@pytest.mark.parametrize("choice", ["mesh", "gaussians"])
def test_what_is_drawn_whole_is_drawn_once(choice, compose_config, monkeypatch):
    from hydra.utils import instantiate

    scene = instantiate(compose_config(f"scene={choice}", "guidance=sd").scene)
    drawn, render = [], type(scene).render
    monkeypatch.setattr(type(scene), "render", lambda *given, **named: drawn.append(1) or render(*given, **named))
    monkeypatch.setattr(picture, "STRIP", 1)
    camera = ORBIT.view(torch.zeros(1), 15.0, 32, 48)
    picture.render_picture(scene, camera)
    render_frame(scene, camera, ALBEDO)
    assert len(drawn) == 2
