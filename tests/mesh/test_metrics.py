from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from omegaconf import OmegaConf
from options import export_settings

from dreamfusion.camera.orbit import Orbit
from dreamfusion.mesh.density_grid import EmptyFieldError
from dreamfusion.mesh.extract import extract_surface, placed, surface_color
from dreamfusion.mesh.metrics import PART, SIZE, VIEWS, compare, unlike
from dreamfusion.mesh.simplify import is_watertight
from dreamfusion.scene.background.solid import ConstantBackground
from dreamfusion.scene.nerf.field import Field
from dreamfusion.scene.nerf.scene import NeRF
from dreamfusion.scene.nerf.stratified import StratifiedRenderer
from dreamfusion.types import FieldOutput, Mesh

COLOR = (0.8, 0.3, 0.1)
ORBIT = Orbit([0, 0], [3, 3], False, [1.374, 1.374], 0.0, 0.0, 0.0, 0.0, [3, 3], 1, 1, 64)


@pytest.fixture
def scene(ball):
    return with_field(ball(density=80.0, size=0.6, color=COLOR))


def with_field(field):
    return NeRF(field, ConstantBackground([1, 1, 1]), StratifiedRenderer(1.0, 48))


def sphere(radius, color=COLOR, offset=(0, 0, 0)):
    surface = trimesh.creation.icosphere(subdivisions=4, radius=radius)
    vertices = np.asarray(surface.vertices + offset, np.float32)
    colors = np.tile(np.float32(color), (len(vertices), 1))
    return Mesh(vertices, np.asarray(surface.faces, np.int64), colors=colors)


def test_the_ball_itself_agrees_in_outline_and_color(scene):
    found = compare(scene, ORBIT, sphere(0.6))
    assert found.iou > 0.98
    assert found.worst_iou > 0.98
    assert found.color_difference < 0.002
    assert found.sheet.shape == (2 * SIZE, VIEWS * SIZE, 3)


def test_the_part_that_a_mesh_lacks_is_counted_in_pixels(scene):
    assert compare(scene, ORBIT, sphere(0.6)).missing == 0
    half = sphere(0.6)
    left = half.vertices[half.faces][..., 0].max(1) < 0
    lacking = compare(scene, ORBIT, replace(half, faces=half.faces[left]))
    shown = np.pi * (0.6 / (9 - 0.36) ** 0.5 * 1.374 * SIZE) ** 2  # pixels of the ball
    assert lacking.missing == pytest.approx(shown / 2, rel=0.2)  # seen from the front, without a rim


def test_a_smaller_ball_agrees_by_its_share_of_the_area(scene):
    d = 3.0
    share = (0.48**2 / (d**2 - 0.48**2)) / (0.6**2 / (d**2 - 0.6**2))  # discs of radius r / sqrt(d^2 - r^2)
    assert compare(scene, ORBIT, sphere(0.48)).iou == pytest.approx(share, abs=0.02)


def test_another_color_differs_by_as_much_and_a_ball_elsewhere_does_not_agree(scene):
    assert compare(scene, ORBIT, sphere(0.6, (0.8, 0.6, 0.1))).color_difference == pytest.approx(0.1, abs=0.003)
    aside = compare(scene, ORBIT, sphere(0.2, offset=(0, 0.9, 0)))
    assert aside.iou < 0.1


SETTINGS = OmegaConf.create(
    {
        "resolution": 64, "threshold": "auto", "visual_hull": True, "min_piece": 0.01, "smoothing": 2, "faces": 3000,
        "texture": 128, "lit": False, "color_depth": 0.06, "chunk": 100000,
        "blur": 0.02, "levels": [], "quads": False, "min_standing_piece": 1.0, "fill_hidden": True, "denoise": 0.0,
    }
)  # fmt: skip


def test_what_is_extracted_agrees_with_the_renders(scene):
    surface = extract_surface(scene, ORBIT, SETTINGS)
    assert surface.watertight
    assert surface.mesh.texture.shape == (128, 128, 3)
    found = compare(scene, ORBIT, surface.mesh)
    assert found.iou > 0.95
    assert found.color_difference < 0.005


def test_a_level_of_detail_has_fewer_faces_half_the_texture_and_the_same_looks(scene):
    settings = export_settings(resolution=48, threshold=20.0, blur=0, faces=2000, levels=[1000, 300], texture=64)
    surface = extract_surface(scene, ORBIT, settings)
    assert [mesh.texture.shape[0] for mesh in (surface.mesh, *surface.levels)] == [64, 32, 16]
    for level, faces in zip(surface.levels, (1000, 300), strict=True):
        assert len(level.faces) == pytest.approx(faces, rel=0.02)
        assert is_watertight(level.vertices, level.faces)
    found = compare(scene, ORBIT, surface.levels[1])
    assert found.iou > 0.95 and found.color_difference < 0.005


def test_a_wheel_that_hangs_in_the_air_is_part_of_the_mesh(scene):
    """A loose ball of 2.8 % of the large one's area, as a thin strut leaves it, is seen and therefore kept."""

    class Body(type(scene.field)):
        def density(self, positions):
            wheel = (positions - torch.tensor([0.0, -0.75, 0.0])).norm(dim=-1) < 0.1
            return super().density(positions) + self.value * wheel

    rolling = with_field(Body(density=80.0, size=0.6, color=COLOR))
    mesh = extract_surface(rolling, ORBIT, SETTINGS).mesh
    assert mesh.vertices[:, 1].min() == pytest.approx(-0.85, abs=0.03)
    assert compare(rolling, ORBIT, mesh).iou > 0.95


def test_a_translucent_twig_that_half_of_the_views_see_through_is_part_of_the_mesh(scene):
    class Snowman(type(scene.field)):
        def density(self, positions):
            across = (positions[:, 1:] - 0.1).norm(dim=-1) / 0.02
            along = (positions[:, 0] > 0.4) & (positions[:, 0] < 0.9)
            twig = 18.0 * torch.exp(-across.square() / 2)  # opacity 1 - exp(-18 * 0.02 * 2.5) = 0.6 across its middle
            return super().density(positions) + along * twig

    field = Snowman(density=80.0, size=0.5, color=COLOR)
    snowman = NeRF(field, ConstantBackground([1, 1, 1]), StratifiedRenderer(1.0, 96))
    settings = OmegaConf.merge(SETTINGS, {"resolution": 192, "faces": 20000, "texture": 0})
    mesh = extract_surface(snowman, ORBIT, settings).mesh
    assert mesh.vertices[:, 0].max() == pytest.approx(0.9, abs=0.03)
    assert compare(snowman, ORBIT, mesh).missing <= PART


def test_the_sentence_names_the_worse_of_two_faults_or_none():
    assert unlike({}) == unlike({"silhouette_iou": 0.97, "missing_pixels": PART}) == ""
    assert "0.900" in unlike({"silhouette_iou": 0.9, "missing_pixels": 50})
    assert "lacks a part" in unlike({"silhouette_iou": 0.97, "missing_pixels": 50})


def test_a_blur_evens_out_what_is_rough_and_keeps_the_outline(scene):
    class Rough(type(scene.field)):
        def density(self, positions):
            bumps = 0.015 * torch.sin(60 * positions).prod(dim=-1)
            return self.value * (positions.norm(dim=-1) + bumps < self.size)

    rough = with_field(Rough(density=80.0, size=0.6, color=COLOR))
    spread, agreement = [], []
    for blur in (0.0, 0.03):
        mesh = extract_surface(
            rough, ORBIT, OmegaConf.merge(SETTINGS, {"resolution": 96, "blur": blur, "texture": 0})
        ).mesh
        spread.append(np.linalg.norm(mesh.vertices, axis=1).std())
        agreement.append(compare(rough, ORBIT, mesh).iou)
    assert spread[1] < 0.5 * spread[0]
    assert min(agreement) > 0.97


def test_a_color_is_what_a_ray_from_outside_sees_of_the_layers_below(scene):
    """A red skin 0.02 thick of density s over blue: red shows through by 1 - exp(-0.02 s), the samples lie at +-0.005
    about it."""

    class Layers(Field):
        radius = 1.0

        def forward(self, positions, with_normal=False):
            distance = positions.norm(dim=1)
            red = (distance > 0.58)[:, None] * torch.tensor([1.0, -1.0, -1.0]) + torch.tensor([0.0, 1.0, 1.0])
            return FieldOutput(50.0 * (distance < 0.6), red.clamp(0, 1) * torch.tensor([1.0, 0.0, 1.0]), None)

    normal = torch.nn.functional.normalize(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    seen = surface_color(with_field(Layers()), 0.048)(0.6 * normal, normal)
    through = np.exp(-50 * 0.02)
    end = np.exp(-50 * 0.05)
    expected = [(1 - through) / (1 - end), 0, (through - end) / (1 - end)]
    np.testing.assert_allclose(seen.numpy(), np.tile(expected, (50, 1)), atol=1e-3)


def test_a_scene_full_of_fog_or_empty_is_named_with_the_opacity_that_was_seen(scene, ball):
    fog = with_field(ball(density=80.0, size=2.0))
    with pytest.raises(EmptyFieldError, match=r"full at threshold 20: .* the opacity of the renders is 0 to 1$"):
        extract_surface(fog, ORBIT, OmegaConf.merge(SETTINGS, {"threshold": 20.0}))
    with pytest.raises(EmptyFieldError, match=r"empty at threshold 200: .* the opacity of the renders is 0 to 1$"):
        extract_surface(scene, ORBIT, OmegaConf.merge(SETTINGS, {"threshold": 200.0}))
    nothing = with_field(ball(density=0.1, size=0.6))
    with pytest.raises(EmptyFieldError, match=r"the largest opacity over 262144 rays is 0\.1"):
        extract_surface(nothing, ORBIT, SETTINGS)


def test_baked_light_darkens_the_side_away_from_it_and_vertex_colors_do_without_texture(scene):
    mesh = extract_surface(scene, ORBIT, OmegaConf.merge(SETTINGS, {"lit": True, "texture": 0})).mesh
    light = ORBIT.view(torch.zeros(1), 15.0, 1, 1).light[0].numpy()
    towards = light - mesh.vertices
    cosine = (mesh.normals * towards).sum(1) / np.linalg.norm(towards, axis=1)
    np.testing.assert_allclose(mesh.colors, np.float32(COLOR) * (0.1 + 0.9 * cosine.clip(0)[:, None]), atol=1e-4)
    assert mesh.texture is None


def test_a_placed_mesh_has_the_length_that_was_asked_for_and_stands_on_its_feet():
    mesh = sphere(0.5, offset=(0.0, 0.3, 0.1))
    stretched = Mesh(mesh.vertices * np.float32([1, 2, 1]), mesh.faces, mesh.vertices)
    y_up = placed(stretched, 0.1, "y")
    np.testing.assert_allclose(np.ptp(y_up.vertices, axis=0), [0.05, 0.1, 0.05], rtol=1e-3)
    z_up = placed(stretched, 0.1, "z")
    np.testing.assert_allclose(z_up.vertices, y_up.vertices[:, [0, 2, 1]] * [1, -1, 1], rtol=1e-5)
    np.testing.assert_allclose(z_up.normals[:, 2], stretched.normals[:, 1])
    assert trimesh.Trimesh(z_up.vertices, z_up.faces).volume > 0
