import io
import json

import numpy as np
import pytest
import trimesh
from libraries import MTL, OBJ, entry, write_library
from PIL import Image

from dreamfusion.ops.rasterize import RasterMesh
from dreamfusion.pocket.data import assets
from dreamfusion.pocket.data.assets import AssetError, load_asset
from dreamfusion.pocket.data.catalog import read_catalog


def png(size: tuple[int, int] = (4, 4), color: tuple[int, ...] = (0, 255, 0)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB" if len(color) == 3 else "RGBA", size, color).save(stream, "PNG")
    return stream.getvalue()


def load(tmp_path, obj: str = OBJ, mtl: str = MTL, texture: bytes | None = None, **more: str) -> RasterMesh:
    files = {"m/box.obj": obj.encode(), "m/box.mtl": mtl.encode(), "m/side.png": texture or png()}
    path = write_library(tmp_path / "test.sh3f", entry(1, "Thing", "/m/box.obj", **more), files)
    return load_asset(read_catalog(path)[0])


def colors_by_side(mesh: RasterMesh) -> dict[tuple[int, ...], tuple[float, ...]]:
    """Colour of each face's material (a texture's first texel) by the rounded face normal."""
    found = {}
    for face, m in zip(mesh.faces, mesh.material, strict=True):
        normal = tuple(np.rint(mesh.normals[face].mean(axis=0)).astype(int).tolist())
        material = mesh.materials[m]
        texel = (1.0, 1.0, 1.0) if material.texture is None else tuple(material.texture[0, 0, :3] / 255)
        found[normal] = tuple(np.multiply(material.color, texel).round(3).tolist())
    return found


def test_a_model_is_centred_and_its_farthest_vertex_is_at_one(tmp_path):
    mesh = load(tmp_path)
    np.testing.assert_allclose(mesh.vertices.min(axis=0) + mesh.vertices.max(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(np.ptp(mesh.vertices, axis=0), np.array([2, 1, 1]) * 2 / np.sqrt(6), atol=1e-12)
    assert np.linalg.norm(mesh.vertices, axis=1).max() == pytest.approx(1)


def test_faces_have_the_colours_textures_and_default_materials_of_the_file(tmp_path):
    sides = colors_by_side(load(tmp_path))
    assert sides[0, 0, 1] == (1, 0, 0)  # Kd
    assert sides[1, 0, 0] == (0, 1, 0)  # the texture, found beside the model, replaces Kd
    assert sides[0, 1, 0] == (1, 1, 1)  # "white" of the default materials


def test_transparent_materials_are_dropped_unless_there_are_no_others(tmp_path):
    blue = (0.0, 0.0, 1.0)
    assert blue not in colors_by_side(load(tmp_path)).values()
    only_pane = OBJ[: OBJ.index("usemtl front")] + OBJ[OBJ.index("usemtl pane") :]
    assert set(colors_by_side(load(tmp_path, obj=only_pane)).values()) == {blue}


def test_rotation_turns_the_front_towards_plus_z(tmp_path):
    sides = colors_by_side(load(tmp_path, modelRotation="0 0 1 0 1 0 -1 0 0"))  # x -> -z, z -> x
    assert sides[1, 0, 0] == (1, 0, 0)
    assert sides[0, 0, -1] == (0, 1, 0)


def test_large_textures_are_downscaled_with_their_aspect_ratio(tmp_path):
    mesh = load(tmp_path, texture=png((1024, 512), (10, 20, 30, 255)))
    texture = next(m.texture for m in mesh.materials if m.texture is not None)
    assert texture.shape == (128, 256, 4)
    assert (texture == (10, 20, 30, 255)).all()


def test_given_normals_are_kept(tmp_path):
    obj = "v 0 0 0\nv 1 0 0\nv 0 1 0\nvn 0 0.6 0.8\nf 1//1 2//1 3//1\n"
    np.testing.assert_allclose(load(tmp_path, obj=obj).normals, np.tile([0, 0.6, 0.8], (3, 1)))


@pytest.mark.parametrize(
    ("obj", "message"), [("v 0 0 0\n", "has no faces"), ("v 1 1 1\nf 1 1 1\n", "the radius of the model is 0")]
)
def test_a_model_that_cannot_be_rendered_is_an_error_that_names_it(tmp_path, obj, message):
    with pytest.raises(AssetError, match=rf"model m/box.obj \(thing\) of test.sh3f.*{message}"):
        load(tmp_path, obj=obj)


def test_missing_and_huge_models_are_errors(tmp_path, monkeypatch):
    path = write_library(tmp_path / "test.sh3f", entry(1, "Thing", "/m/gone.obj"), {})
    with pytest.raises(AssetError, match=r"gone.obj"):
        load_asset(read_catalog(path)[0])
    monkeypatch.setattr(assets, "MAX_FACES", 5)
    with pytest.raises(AssetError, match="has 12 faces, at most 5 are allowed"):
        load(tmp_path)


def test_a_mesh_that_many_nodes_show_counts_as_often(tmp_path, monkeypatch):
    """The nodes' copies are made before the faces can be counted."""
    scene = trimesh.Scene()
    for number in range(9):
        scene.add_geometry(trimesh.creation.box(), geom_name="box", node_name=f"n{number}", parent_node_name="world")
    scene.export(tmp_path / "many.glb")
    (model,) = read_catalog(tmp_path)
    assert len(load_asset(model).faces) >= 12
    monkeypatch.setattr(assets, "MAX_FACES", 50)
    monkeypatch.setattr(trimesh, "load_scene", None)
    with pytest.raises(AssetError, match="show 108 faces, at most 50"):
        load_asset(model)


def test_vertices_that_many_parts_share_count_as_often(tmp_path, monkeypatch):
    """Each part gets a copy of them, whatever it shows."""
    trimesh.Scene(trimesh.creation.box()).export(tmp_path / "box.glb")
    (model,) = read_catalog(tmp_path)
    content = (tmp_path / "box.glb").read_bytes()
    length = int.from_bytes(content[12:16], "little")
    header = json.loads(content[20 : 20 + length])
    (mesh,) = header["meshes"]
    mesh["primitives"] *= 9
    header["accessors"][mesh["primitives"][0]["indices"]]["count"] = 3  # a triangle in each
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4)
    chunk = len(text).to_bytes(4, "little") + content[16:20] + text
    rest = content[20 + length :]
    (tmp_path / "box.glb").write_bytes(content[:8] + (12 + len(chunk) + len(rest)).to_bytes(4, "little") + chunk + rest)
    assert len(load_asset(model).vertices) >= 9 * 3
    monkeypatch.setattr(assets, "MAX_FACES", 20)
    monkeypatch.setattr(trimesh, "load_scene", None)
    with pytest.raises(AssetError, match=r"have 72 vertices, at most 60 are allowed"):
        load_asset(model)


def test_coordinates_in_a_texture_that_are_no_numbers_are_zero(tmp_path):
    obj = OBJ.replace("vt 0", "vt nan", 1)
    assert "nan" in obj and np.isfinite(load(tmp_path, obj=obj).uv).all()


def test_files_on_disk_load_like_those_in_archives(tmp_path):
    for name, content in {"box.obj": OBJ.encode(), "box.mtl": MTL.encode(), "side.png": png()}.items():
        (tmp_path / name).write_bytes(content)
    assert colors_by_side(load_asset(read_catalog(tmp_path)[0]))[1, 0, 0] == (0, 1, 0)


def test_glb_files_load_with_texture_and_node_transform(tmp_path):
    texture = Image.new("RGB", (4, 4), (0, 0, 255))
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=texture, baseColorFactor=[255, 255, 255, 255])
    box = trimesh.creation.box(extents=(1, 2, 3))
    box.visual = trimesh.visual.TextureVisuals(uv=np.zeros((len(box.vertices), 2)), material=material)
    scene = trimesh.Scene()
    scene.add_geometry(box, transform=trimesh.transformations.scale_matrix(2.0, direction=[1, 0, 0]))
    scene.export(tmp_path / "box.glb")
    mesh = load_asset(read_catalog(tmp_path)[0])
    np.testing.assert_allclose(np.ptp(mesh.vertices, axis=0), np.array([2, 2, 3]) * 2 / np.sqrt(17), atol=1e-6)
    assert set(colors_by_side(mesh).values()) == {(0, 0, 1)}


def glb_part(folder, alpha_mode=None, factor=255, picture=None):
    """A GLB of one box, read."""
    box = trimesh.creation.box()
    image = None if picture is None else Image.fromarray(np.full((4, 4, 4), (200, 100, 50, picture), np.uint8))
    material = trimesh.visual.material.PBRMaterial(
        baseColorFactor=[255, 255, 255, factor], alphaMode=alpha_mode, baseColorTexture=image
    )
    box.visual = trimesh.visual.TextureVisuals(uv=np.zeros((len(box.vertices), 2)), material=material)
    box.export(folder / "box.glb", include_normals=False)
    (model,) = read_catalog(folder)
    return load_asset(model)


@pytest.mark.parametrize(("mode", "kept"), [(None, 255), ("OPAQUE", 255), ("MASK", 0), ("BLEND", 0)])
def test_the_alpha_of_a_texture_counts_where_gltf_says_so(mode, kept, tmp_path):
    mesh = glb_part(tmp_path, mode, picture=0)
    assert mesh.materials[0].texture[0, 0, 3] == kept


def test_window_panes_of_a_glb_are_dropped_as_those_of_an_obj(tmp_path):
    with pytest.raises(AssetError):
        glb_part(tmp_path, "BLEND", factor=10)
    for mode, factor in ((None, 10), ("BLEND", 200)):
        assert len(glb_part(tmp_path, mode, factor).faces) == 12


def test_a_glb_without_normals_has_creases(tmp_path):
    normals = glb_part(tmp_path).normals
    np.testing.assert_allclose(np.abs(normals).max(axis=1), 1, atol=1e-6)  # those of the sides of the box
