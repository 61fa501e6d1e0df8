from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from options import option

from dreamfusion.error import UserError
from dreamfusion.export.splats import C0, splats_of, write_ply, write_splat
from dreamfusion.ops.splat import splat
from dreamfusion.ops.splat.projection import project_gaussians, rotation_matrices
from dreamfusion.scene.gaussians.harmonics import bounded, colors_along
from dreamfusion.scene.mesh.scene import MeshScene
from dreamfusion.types import Gaussians

TURN = np.diag([1.0, -1.0, -1.0])  # about x: the viewers' axes


def cloud(count=7):
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(count, 7, generator=generator)
    normal = torch.randn(count, 7, generator=generator)
    return Gaussians(normal[:, :3], 0.01 + drawn[:, :3], 3 * normal[:, 3:], drawn[:, 3], drawn[:, 4:])


def covariances(rotations, scales):
    axes = rotation_matrices(torch.as_tensor(rotations)).numpy() * np.asarray(scales)[:, None]
    return axes @ axes.transpose(0, 2, 1)


def cloud_of_degree_one(count=7):
    own, drawn = cloud(count), torch.randn(count, 3, 3, generator=torch.Generator().manual_seed(1))
    return replace(own, directional=bounded(2 * drawn, own.colors))


def read(path):
    """Columns by name, as trimesh's own parser finds them."""
    found = trimesh.load(path).metadata["_ply_raw"]["vertex"]["data"]
    return {name: np.asarray(found[name]).reshape(-1) for name in found.dtype.names}


def kerbl_color(found, direction):
    """The colours (N, 3) that a viewer shows along unit directions (N, 3), in its axes (Kerbl et al. 2023)."""
    x, y, z = direction.T
    color = np.empty((len(direction), 3))
    for channel in range(3):
        one, two, three = (found[f"f_rest_{3 * channel + k}"] for k in range(3))  # all of red come first
        degree_one = 0.48860251 * (-y * one + z * two - x * three)
        color[:, channel] = 0.5 + 0.28209479 * found[f"f_dc_{channel}"] + degree_one
    return color.clip(0, 1)


def test_another_reader_finds_the_gaussians_in_the_layout_of_splat_viewers(tmp_path):
    own = cloud()
    write_ply(own, tmp_path / "splats.ply", {"prompt": "a\ncat"})
    found = read(tmp_path / "splats.ply")
    assert not any(name.startswith("f_rest") for name in found)

    def columns(*names):
        return np.stack([found[name] for name in names], axis=1)

    np.testing.assert_allclose(columns("x", "y", "z"), own.means.numpy() @ TURN, rtol=1e-6)
    np.testing.assert_allclose(0.5 + C0 * columns("f_dc_0", "f_dc_1", "f_dc_2"), own.colors.numpy(), atol=1e-6)
    np.testing.assert_allclose(1 / (1 + np.exp(-found["opacity"])), own.opacities.numpy(), atol=1e-5)
    scales = np.exp(columns("scale_0", "scale_1", "scale_2"))
    np.testing.assert_allclose(scales, own.scales.numpy(), rtol=1e-5)
    rotations = columns("rot_0", "rot_1", "rot_2", "rot_3")
    np.testing.assert_allclose(np.linalg.norm(rotations, axis=1), 1, rtol=1e-6)
    wanted = TURN @ covariances(own.rotations, own.scales) @ TURN
    np.testing.assert_allclose(covariances(rotations, scales), wanted, atol=1e-5)
    assert b"comment prompt: a cat\n" in (tmp_path / "splats.ply").read_bytes()


def test_a_viewer_finds_the_colours_of_the_renderer_along_each_direction(tmp_path):
    own = cloud_of_degree_one(50)
    write_ply(own, tmp_path / "splats.ply", {})
    found = read(tmp_path / "splats.ply")
    assert [*found][6:19] == ["f_dc_0", "f_dc_1", "f_dc_2", *(f"f_rest_{k}" for k in range(9)), "opacity"]
    drawn = np.random.default_rng(0).normal(size=(20, 3))
    for camera in (*np.eye(3) * 9, *-np.eye(3) * 9, *drawn):
        ours = colors_along(own, (own.means - torch.as_tensor(camera, dtype=torch.float32))[None])[0].numpy()
        away = np.stack([found[name] for name in "xyz"], axis=1) - TURN @ camera
        shown = kerbl_color(found, away / np.linalg.norm(away, axis=1, keepdims=True))
        np.testing.assert_allclose(shown, ours, atol=2e-6)
    assert np.abs(ours - own.colors.numpy()).max() > 0.1


def test_a_viewer_draws_the_picture_of_the_renderer(tmp_path):
    own = cloud_of_degree_one(40)
    own = replace(own, means=0.3 * own.means, scales=0.2 * own.scales)
    write_ply(own, tmp_path / "splats.ply", {})
    found = read(tmp_path / "splats.ply")

    def columns(*names):
        return torch.from_numpy(np.stack([found[name] for name in names], axis=1))

    means, scales = columns("x", "y", "z"), columns("scale_0", "scale_1", "scale_2").exp()
    rotations, opacities = columns("rot_0", "rot_1", "rot_2", "rot_3"), columns("opacity")[:, 0].sigmoid()
    for azimuth in (0.0, 100.0, 250.0):
        camera = option("camera/orbit").view(torch.tensor([azimuth]), 20.0, 48, 48)
        ours = splat(
            project_gaussians(camera, own.means, own.scales, own.rotations),
            own.opacities,
            colors_along(own, own.means - camera.camera_to_world[:, None, :, 3]),
            48,
            48,
        )[0]
        turned = replace(camera, camera_to_world=torch.from_numpy(TURN).float() @ camera.camera_to_world)
        away = (means - turned.camera_to_world[0, :, 3]).numpy()
        colors = kerbl_color(found, away / np.linalg.norm(away, axis=1, keepdims=True))
        screen = project_gaussians(turned, means, scales, rotations)
        shown = splat(screen, opacities, torch.from_numpy(colors).float()[None], 48, 48)[0]
        assert float(ours.max()) > 0.3
        torch.testing.assert_close(shown, ours, atol=1e-4, rtol=0)


def test_a_splat_file_has_32_bytes_a_gaussian_the_most_visible_first(tmp_path):
    own = cloud()
    write_splat(own, tmp_path / "splats.splat")
    layout = np.dtype([("place", "<f4", 3), ("scale", "<f4", 3), ("color", "u1", 4), ("rotation", "u1", 4)])
    rows = np.fromfile(tmp_path / "splats.splat", layout)
    assert len(rows) == 7
    order = np.argsort(-own.scales.prod(1).numpy() * own.opacities.numpy())
    np.testing.assert_allclose(rows["place"], (own.means.numpy() @ TURN)[order], rtol=1e-6)
    np.testing.assert_allclose(rows["color"][:, :3] / 255, own.colors.numpy()[order], atol=0.003)
    np.testing.assert_allclose(rows["color"][:, 3] / 255, own.opacities.numpy()[order], atol=0.003)
    wanted = TURN @ covariances(own.rotations, own.scales) @ TURN
    found = covariances((rows["rotation"].astype(np.float32) - 128) / 128, rows["scale"])
    np.testing.assert_allclose(found, wanted[order], atol=0.05)


@pytest.mark.parametrize("make", [cloud, cloud_of_degree_one])
def test_what_is_not_seen_is_not_written(tmp_path, make):
    own = make()
    own.opacities[2] = 0.0
    write_ply(own, tmp_path / "splats.ply", {})
    write_splat(own, tmp_path / "splats.splat")
    assert len(read(tmp_path / "splats.ply")["x"]) == 6
    assert (tmp_path / "splats.splat").stat().st_size == 6 * 32


def test_a_scene_without_gaussians_is_refused_in_one_sentence():
    field = option("field/hashgrid", levels=4, log2_table_size=10, max_resolution=32, hidden=16)
    scene = MeshScene(field, option("background/constant"), 8, "both", 0.5)
    with pytest.raises(UserError, match=r"export=splat needs Gaussians.*MeshScene; type export=glb") as error:
        splats_of(scene)
    assert "\n" not in str(error.value)
