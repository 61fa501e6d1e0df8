"""Shared fixtures: scenes and priors with closed forms, cameras at given angles, a browser, configurations.

A plugin and not in conftest.py: the process that only distributes the tests does not import torch.
"""

import copy
import shutil

import pytest
import torch
from browser import Browser
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from options import CONF, make_sds, option
from priors import GaussianPrior

from dreamfusion.camera.orbit import focal_to_fov, look_from, spherical
from dreamfusion.cli.quoting import quote_texts
from dreamfusion.cli.resolvers import register
from dreamfusion.loss import Regularizer
from dreamfusion.scene.background.learned import LearnedBackground
from dreamfusion.scene.lighting import Lighting
from dreamfusion.scene.nerf.field import Field
from dreamfusion.scene.nerf.hashgrid import HashGridField
from dreamfusion.scene.nerf.occupancy import OccupancyRenderer
from dreamfusion.scene.nerf.scene import NeRF
from dreamfusion.system import DreamFusion
from dreamfusion.types import FieldOutput


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Limit torch to one thread, which is fastest for small tensors."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Ball(Field):
    """A homogeneous ball of radius `size` and one colour around the origin; normals point outwards everywhere."""

    def __init__(self, density=3.0, size=0.6, color=(0.8, 0.3, 0.1), radius=1.0):
        super().__init__()
        self.value, self.size, self.radius = density, size, radius
        self.color = torch.tensor(color)

    def forward(self, positions, with_normal=False):
        normal = torch.nn.functional.normalize(positions, dim=-1) if with_normal else None
        return FieldOutput(self.density(positions), self.color.expand_as(positions), normal)

    def density(self, positions):
        return self.value * (positions.norm(dim=-1) < self.size)


@pytest.fixture
def ball():
    return Ball


@pytest.fixture
def gaussian_prior():
    return GaussianPrior


@pytest.fixture
def tiny_field():
    """A small hash grid; `strong` initialises features large enough to shape the scene."""

    def make(strong=False, **changes):
        settings = {
            "radius": 1.0, "levels": 3, "features": 2, "log2_table_size": 9, "base_resolution": 4,
            "max_resolution": 16, "hidden": 8, "blob_density": 5.0, "blob_radius": 0.5, "density_scale": 1.0,
            "precision": "auto", "open_levels": 1.0,
        }  # fmt: skip
        torch.manual_seed(0)
        field = HashGridField(**(settings | changes))
        if strong:
            torch.nn.init.normal_(field.table, std=0.5)
        return field

    return make


@pytest.fixture
def make_scene():
    """A NeRF whose occupancy grid is updated every other step, from step 2 on a random part of the cells."""

    def make(field, background=None, renderer=None):
        background = background or LearnedBackground(frequencies=2, hidden=8, layers=1, random_share=0.5)
        renderer = renderer or OccupancyRenderer(1.0, 8, 24, threshold=0.01, decay=0.9, update_every=2, warmup=2)
        return NeRF(field, background, renderer)

    return make


@pytest.fixture
def make_system(make_scene, tiny_field, gaussian_prior):
    def make(seed=0, **changes):
        prior, prompting = gaussian_prior(), option("prompting/view_dependent")
        settings = {
            "scene": make_scene(tiny_field(strong=True)),
            "prompting": prompting,
            "distillation": make_sds(prior, max_timestep=[[0, 0.98], [1, 0.5]]),
            "text_table": prompting.encode(prior, "a cat"),
            "config": {"prompt": "a cat", "field": {"radius": 1.0}},
            "lighting": Lighting(albedo_until=0.2, lit=0.8, textureless=0.5, ambient=0.1),
            "regularizer": Regularizer(orientation=[[0, 0.0], [1, 0.1]], opacity=0.01),
            "optimization": option("optimizer/adam", learning_rates={"table": 0.01, "network": 0.001}, warmup_steps=2),
            "reference": None,
            "seed": seed,
        }  # fmt: skip
        return DreamFusion(**(settings | changes))

    return make


@pytest.fixture
def cameras_at():
    """Cameras at the given angles that look at the origin, with the light at the camera."""

    def make(azimuth, elevation=None, distance=3.0, focal=1.374, height=8, width=None):
        azimuth = torch.tensor(azimuth, dtype=torch.float32)
        elevation = torch.zeros_like(azimuth) if elevation is None else torch.tensor(elevation, dtype=torch.float32)
        position = spherical(azimuth, elevation, torch.full_like(azimuth, distance))
        up = torch.tensor([0.0, 1.0, 0.0]).expand_as(position)
        fov = focal_to_fov(torch.full_like(azimuth, focal))
        return look_from(position, torch.zeros_like(position), up, fov, position, height, width or height)

    return make


@pytest.fixture
def seeded():
    return lambda seed=0: torch.Generator().manual_seed(seed)


@pytest.fixture
def browser(tmp_path_factory):
    """A page of a headless browser; the test is skipped without a browser."""
    profile = tmp_path_factory.mktemp("profile")
    made = Browser(profile, size=(1000, 900))
    yield made
    made.close()
    shutil.rmtree(profile, ignore_errors=True)


@pytest.fixture(scope="session")
def compose_config():
    """The configuration that launch.py composes for a command line, each composed once."""
    register()
    composed = {}

    def make(*arguments, name="config", folder=CONF, with_hydra=False):
        GlobalHydra.instance().clear()
        key = arguments, name, folder
        if with_hydra or key not in composed:
            with initialize_config_dir(str(folder), version_base="1.3"):
                cfg = compose(name, overrides=quote_texts(arguments), return_hydra_config=with_hydra)
            if with_hydra:  # names the working directory
                return cfg
            composed[key] = cfg
        return copy.deepcopy(composed[key])

    return make
