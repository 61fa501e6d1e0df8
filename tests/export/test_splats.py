import numpy as np
import pytest
import torch
import trimesh
from options import option

from dreamfusion.error import UserError
from dreamfusion.export.splats import C0, splats_of, write_ply, write_splat
from dreamfusion.ops.splat.projection import rotation_matrices
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


def test_another_reader_finds_the_gaussians_in_the_layout_of_splat_viewers(tmp_path):
    own = cloud()
    write_ply(own, tmp_path / "splats.ply", {"prompt": "a\ncat"})
    read = trimesh.load(tmp_path / "splats.ply").metadata["_ply_raw"]["vertex"]["data"]  # trimesh's own parser
    found = {name: np.asarray(read[name]).reshape(-1) for name in read.dtype.names}

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


def test_a_scene_without_gaussians_is_refused_in_one_sentence():
    field = option("field/hashgrid", levels=4, log2_table_size=10, max_resolution=32, hidden=16)
    scene = MeshScene(field, option("background/constant"), 8, "both", 0.5)
    with pytest.raises(UserError, match=r"export=splat needs Gaussians.*MeshScene; type export=glb") as error:
        splats_of(scene)
    assert "\n" not in str(error.value)
