from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from options import export_settings, option
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dreamfusion.error import UserError
from dreamfusion.mesh.density_grid import EmptyFieldError
from dreamfusion.mesh.extract import extract_surface
from dreamfusion.mesh.metrics import compare
from dreamfusion.ops.rasterize import RasterMesh
from dreamfusion.runs import start
from dreamfusion.runs.start import read_mesh
from dreamfusion.scene.mesh.scene import MeshScene, eikonal, laplacian, normal_consistency
from dreamfusion.scene.picture import render_views
from dreamfusion.scene.shading import LAMBERTIAN, Shading

ORBIT = option("camera/orbit")
BALL = trimesh.creation.icosphere(4, 0.7)


def make(learn="both", resolution=24, sphere=0.6):
    torch.manual_seed(0)
    field = option("field/hashgrid", levels=4, log2_table_size=10, max_resolution=32, hidden=16)
    return MeshScene(field, option("background/constant"), resolution, learn, sphere)


def view(size=32):
    return ORBIT.view(torch.tensor([20.0, 200.0]), 15.0, size, size)


def colored(mesh):
    """Red on the right, blue on the left."""
    colors = np.where(mesh.vertices[:, :1] > 0, [[0.9, 0.1, 0.1]], [[0.1, 0.1, 0.9]])
    return RasterMesh(np.asarray(mesh.vertices), np.asarray(mesh.faces), colors=colors)


@torch.no_grad()
def test_a_sphere_is_drawn_with_its_depth_normals_and_outline():
    scene, cameras = make(), view(64)
    out = scene.render(cameras, LAMBERTIAN)
    share = float(out.opacity.mean())
    # A ball of radius r at distance a is a disc of the tangent r / sqrt(a^2 - r^2).
    tangent = 0.6 / np.sqrt(9 - 0.36) / np.tan(np.radians(20.0))
    assert share == pytest.approx(np.pi * (tangent / 2) ** 2, rel=0.03)
    middle = out.depth[0, 0, 32, 32]
    assert float(middle) == pytest.approx(2.4, abs=0.02)
    towards = torch.nn.functional.normalize(cameras.camera_to_world[0, :, 3], dim=0)
    assert float(out.normal[0, :, 31:33, 31:33].mean((1, 2)) @ towards) > 0.98


def test_strips_give_the_same_picture_as_the_whole():
    scene, cameras = make(), view().one(0)
    whole = scene.render(cameras, LAMBERTIAN)
    parts = [scene.render(cameras, LAMBERTIAN, rows=slice(top, top + 8)) for top in range(0, 32, 8)]
    torch.testing.assert_close(torch.cat([part.rgb for part in parts], dim=2), whole.rgb)
    assert render_views(scene, cameras).rgb.shape == (1, 3, 32, 32)


def test_in_mixed_precision_the_shape_is_that_of_float32():
    """Only networks compute in half precision; the background's network is not the colours' type then."""
    scene, cameras = make(), view()
    scene.background = option("background/learned", random_share=0.0)
    plain = scene.render(cameras, LAMBERTIAN)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = scene.render(cameras, LAMBERTIAN)
    for name in ("opacity", "depth", "normal", "slope"):
        assert torch.equal(getattr(mixed, name), getattr(plain, name)), name
    torch.testing.assert_close(mixed.rgb, plain.rgb, atol=0.02, rtol=0)


@pytest.mark.parametrize("learn", ["geometry", "appearance", "both"])
def test_only_what_is_learned_gets_a_gradient_and_a_learning_rate(learn):
    scene = make(learn)
    scene.render(view(), Shading(0.3, 0.7), generator=torch.Generator()).rgb.square().sum().backward()
    changed = {name for name, parameter in scene.named_parameters() if parameter.grad is not None}
    shape, colors = {"distance", "offset"}, {"field.table", "field.hidden_weight", "field.output_weight"}
    assert changed == {"geometry": shape, "appearance": colors, "both": shape | colors}[learn]
    learned = {id(p) for group in scene.parameter_groups().values() for p in group}
    assert learned == {id(p) for name, p in scene.named_parameters() if name in changed}


def test_a_sphere_takes_the_outline_of_another_shape():
    """Silhouettes alone: the intersection over union with a bar grows from less than a half."""
    scene, cameras = make(sphere=0.4), ORBIT.view(torch.tensor([0.0, 45.0, 90.0, 135.0]), 10.0, 32, 32)
    bar = make()
    bar.start_from(colored(trimesh.creation.box((1.2, 0.5, 0.5))))
    with torch.no_grad():
        wanted = bar.render(cameras).opacity
    optimizer = torch.optim.Adam([scene.distance, scene.offset], lr=0.3)

    def overlap(opacity):
        return float(torch.minimum(opacity, wanted).sum() / torch.maximum(opacity, wanted).sum())

    before = overlap(scene.render(cameras).opacity.detach())
    for _ in range(25):
        optimizer.zero_grad()
        out = scene.render(cameras)
        ((out.opacity - wanted).square().mean() + 1e-3 * eikonal(out) + 1e-3 * laplacian(out)).backward()
        optimizer.step()
    assert before < 0.65
    assert overlap(scene.render(cameras).opacity.detach()) > 0.9


@torch.no_grad()
def test_the_regularisers_are_small_for_a_sphere_and_grow_with_its_faults():
    scene = make()
    smooth = scene.render(view(8))
    assert float(eikonal(smooth)) < 1e-3
    assert float(normal_consistency(smooth)) < 0.02
    scene.distance.mul_(2)
    scene.offset.add_(torch.randn(scene.offset.shape, generator=torch.Generator().manual_seed(0)))
    rough = scene.render(view(8))
    assert float(eikonal(rough)) > 0.5
    assert float(normal_consistency(rough)) > 3 * float(normal_consistency(smooth))
    assert float(laplacian(rough)) > 3 * float(laplacian(smooth))


class Chosen(TorchDispatchMode):
    """Fails where the size of a result depends on values, for which the host waits for a GPU."""

    def __torch_dispatch__(self, function, types, arguments=(), settings=None):
        masks = [part for part in tree_leaves(arguments[1:]) if torch.is_tensor(part) and part.dtype == torch.bool]
        assert not masks or function.overloadpacket.__name__ != "index"
        assert function.overloadpacket.__name__ not in ("nonzero", "masked_select", "_local_scalar_dense")
        return function(*arguments, **(settings or {}))


def test_regularizers_read_no_value_of_the_device_and_an_edge_of_one_face_does_not_count():
    """They follow the prior's network, before the backward pass is launched."""
    scene = make(resolution=16)
    out = scene.render(view(8))
    with Chosen():
        found = [term.penalty(out) for term in scene.regularizers().values()]
    half = replace(out, edges=out.edges[::2])
    opened = replace(out, edges=torch.where(torch.arange(len(out.edges))[:, None] % 2 == 0, out.edges, -1))
    assert all(value.isfinite() for value in found)
    torch.testing.assert_close(normal_consistency(opened), normal_consistency(half))


def test_a_start_gives_its_shape_and_colours_and_the_export_gives_them_back():
    scene = make()
    scene.start_from(colored(BALL))
    found = extract_surface(scene, ORBIT, export_settings(texture=64))
    assert found.watertight
    assert found.mesh.texture is not None
    assert np.linalg.norm(found.mesh.vertices, axis=1) == pytest.approx(0.7, abs=0.02)
    metrics = compare(scene, ORBIT, found.mesh)
    assert metrics.iou > 0.97
    assert metrics.color_difference < 0.05
    right, left = scene.surface_albedo(torch.tensor([[0.6, 0.2, 0.2], [-0.6, 0.2, 0.2]])).detach()
    assert right[0] > 0.7 > 0.3 > right[2]
    assert left[2] > 0.7 > 0.3 > left[0]


def test_a_scene_loads_bit_for_bit_and_draws_the_same():
    scene, other = make(), make(sphere=0.3)
    with torch.no_grad():
        scene.offset.add_(torch.randn(scene.offset.shape, generator=torch.Generator().manual_seed(0)))
    other.load_state_dict(scene.state_dict())
    gradients = []
    for one in (scene, other):
        one.render(view(), LAMBERTIAN, generator=torch.Generator()).rgb.square().sum().backward()
        gradients.append([p.grad for p in one.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_a_scene_without_a_surface_is_said_and_shows_the_background():
    scene = make()
    torch.nn.init.constant_(scene.distance, 10.0)
    assert not scene.render(view()).opacity.any()
    with pytest.raises(UserError, match=r"the mesh has vanished.*optimizer\.learning_rates\.shape"):
        scene.render(view(), generator=torch.Generator())
    with pytest.raises(EmptyFieldError, match="has vanished"):
        extract_surface(scene, ORBIT, export_settings())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"resolution": 4}, "8 to 256"),
        ({"learn": "all"}, "geometry,"),
        ({"sphere": -1}, "scene.sphere=0.5"),
        ({"sphere": 9}, "scene.sphere=0.5"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        make(**settings)


def bad_file(folder, kind):
    path = folder / f"{kind}.obj"
    mesh = trimesh.creation.box()
    match kind:
        case "empty":
            path.write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\n")
        case "sheet":
            trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]]).export(path)
        case "missing":
            pass
        case _:
            mesh.export(path)
    return path


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("empty", "has no faces"),
        ("missing", "does not exist"),
        ("huge", "has 12 faces, at most 10"),
        ("sheet", "encloses no point of a lattice of 24 cells a side: it is open or too thin"),
    ],
)
def test_a_mesh_that_cannot_be_the_start_is_refused_in_one_sentence(kind, said, tmp_path, monkeypatch):
    monkeypatch.setattr("dreamfusion.pocket.data.assets.MAX_FACES", 10 if kind == "huge" else 100)
    with pytest.raises(UserError, match=said) as error:
        make().start_from(read_mesh(bad_file(tmp_path, kind), 1.0))
    assert "\n" not in str(error.value)


def test_a_mesh_file_is_centred_and_scaled_to_the_scene(tmp_path):
    box = trimesh.creation.box((2.0, 4.0, 4.0))
    box.apply_translation([10, 0, 0])
    box.export(tmp_path / "box.glb")
    mesh = read_mesh(tmp_path / "box.glb", 2.0)
    assert np.linalg.norm(mesh.vertices, axis=1).max() == pytest.approx(2.0 * start.FILLED)
    np.testing.assert_allclose(mesh.vertices.mean(0), 0, atol=1e-6)
