import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from dreamfusion.export.writer import Finish, glb_metadata, write_mesh
from dreamfusion.pocket.data.assets import load_asset
from dreamfusion.pocket.data.catalog import Item
from dreamfusion.types import Mesh

METADATA = {"prompt": 'a "cat"\nwith ☃', "seed": "0"}


@pytest.fixture
def tetrahedron() -> Mesh:
    """Four vertices of four colours; the last one points up (y) and is red."""
    vertices = np.array([[0, 0, 1], [1, 0, -1], [-1, 0, -1], [0, 2, 0]], dtype=np.float32)
    faces = np.array([[0, 1, 3], [1, 2, 3], [2, 0, 3], [0, 2, 1]])
    surface = trimesh.Trimesh(vertices, faces, process=False)
    colors = np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.5, 0.25, 0.1], [1.0, 0.0, 0.0]], dtype=np.float32)
    return Mesh(vertices, faces, np.asarray(surface.vertex_normals, dtype=np.float32), colors)


def read(path: Path) -> trimesh.Trimesh:
    return trimesh.load_mesh(path, process=False)


def gltf_header(path: Path) -> dict:
    data = path.read_bytes()
    magic, version, length, size, kind = struct.unpack("<4sIII4s", data[:20])
    assert (magic, version, length, kind) == (b"glTF", 2, len(data), b"JSON")
    return json.loads(data[20 : 20 + size])


def gltf_accessor(path: Path, name: str) -> np.ndarray:
    """A float VEC3 attribute of the first primitive, read from the bytes."""
    header, data = gltf_header(path), path.read_bytes()
    accessor = header["accessors"][header["meshes"][0]["primitives"][0]["attributes"][name]]
    assert (accessor["componentType"], accessor["type"]) == (5126, "VEC3")
    view = header["bufferViews"][accessor["bufferView"]]
    start = 20 + struct.unpack("<I", data[12:16])[0] + 8 + view["byteOffset"]
    return np.frombuffer(data, "<f4", 3 * accessor["count"], start).reshape(-1, 3)


@pytest.mark.parametrize("suffix", ["glb", "obj", "ply"])
def test_file_read_back_has_the_same_vertices_and_faces(tetrahedron: Mesh, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mesh.{suffix}"
    write_mesh(tetrahedron, path, METADATA)
    loaded = read(path)
    np.testing.assert_allclose(loaded.vertices, tetrahedron.vertices, atol=1e-6)
    np.testing.assert_array_equal(loaded.faces, tetrahedron.faces)
    assert loaded.volume > 0.0


def test_stl_read_back_has_the_same_triangles_in_millimetres_and_stands_on_the_plate(
    tetrahedron: Mesh, tmp_path: Path
) -> None:
    write_mesh(tetrahedron, tmp_path / "mesh.stl", METADATA)
    loaded = read(tmp_path / "mesh.stl")
    np.testing.assert_allclose(
        loaded.triangles, 1000 * (tetrahedron.vertices[tetrahedron.faces] + [1, 0, 1]), rtol=1e-6
    )
    np.testing.assert_allclose(loaded.bounds, [[0, 0, 0], [2000, 2000, 2000]])  # on the plate


@pytest.mark.parametrize("suffix", ["obj", "ply"])
def test_obj_and_ply_carry_display_colors(tetrahedron: Mesh, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mesh.{suffix}"
    write_mesh(tetrahedron, path)
    np.testing.assert_allclose(
        read(path).visual.vertex_colors[:, :3] / 255.0, tetrahedron.colors, atol=0.5 / 255 + 1e-6
    )


def test_glb_carries_linear_colors_as_floats(tetrahedron: Mesh, tmp_path: Path) -> None:
    write_mesh(tetrahedron, tmp_path / "mesh.glb")
    colors = gltf_accessor(tmp_path / "mesh.glb", "COLOR_0")
    np.testing.assert_allclose(colors[:2], [[0, 0, 0], [1, 1, 1]])
    np.testing.assert_allclose(colors[2], [0.21404, 0.05088, 0.01002], atol=1e-4)  # IEC 61966-2-1, by hand


@pytest.mark.parametrize("floats", [True, False])
def test_a_new_scene_that_begins_from_a_glb_reads_the_colors_of_its_vertices(
    floats: bool, tetrahedron: Mesh, tmp_path: Path
) -> None:
    path = tmp_path / "mesh.glb"
    write_mesh(tetrahedron, path)
    if not floats:  # as other programs write them: RGBA, one byte a channel
        linear, content, header = gltf_accessor(path, "COLOR_0"), path.read_bytes(), gltf_header(path)
        number = header["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"]
        view = header["accessors"][number]["bufferView"]
        header["accessors"][number] = {"bufferView": view, "componentType": 5121, "type": "VEC4", "count": len(linear)}
        size = struct.unpack("<I", content[12:16])[0]
        rgba = np.rint(255 * np.column_stack([linear, np.ones(len(linear))])).astype(np.uint8).tobytes()
        start = 28 + size + header["bufferViews"][view].get("byteOffset", 0)
        content = content[:start] + rgba + content[start + len(rgba) :]
        path.write_bytes(
            content[:20] + json.dumps(header, separators=(",", ":")).encode().ljust(size) + content[20 + size :]
        )
    colors = load_asset(Item("mesh", (), "", "", "", path.name, model=str(path))).colors
    np.testing.assert_allclose(colors, tetrahedron.colors, atol=1e-4 if floats else 0.02)


def test_glb_carries_unit_normals_that_point_outwards(tetrahedron: Mesh, tmp_path: Path) -> None:
    write_mesh(tetrahedron, tmp_path / "mesh.glb")
    normals = gltf_accessor(tmp_path / "mesh.glb", "NORMAL")
    np.testing.assert_allclose(normals, tetrahedron.normals, atol=1e-6)
    middle = tetrahedron.vertices.mean(0)
    assert ((tetrahedron.vertices - middle) * normals).sum(1).min() > 0.0


def test_glb_material_is_matte_and_not_metallic(tetrahedron: Mesh, tmp_path: Path) -> None:
    write_mesh(tetrahedron, tmp_path / "mesh.glb")
    header = gltf_header(tmp_path / "mesh.glb")
    surface = header["materials"][header["meshes"][0]["primitives"][0]["material"]]["pbrMetallicRoughness"]
    assert surface["metallicFactor"] == 0.0
    assert 0.8 <= surface["roughnessFactor"] <= 1.0
    assert surface["baseColorFactor"] == [1.0, 1.0, 1.0, 1.0]  # multiplies the vertex colours


def test_glb_carries_the_metadata(tetrahedron: Mesh, tmp_path: Path) -> None:
    write_mesh(tetrahedron, tmp_path / "mesh.glb", METADATA)
    asset = gltf_header(tmp_path / "mesh.glb")["asset"]
    assert asset["version"] == "2.0"
    assert asset["extras"] == METADATA
    assert glb_metadata(tmp_path / "mesh.glb") == METADATA


@pytest.mark.parametrize("content", [None, b"", b"glTF", b"glTF" + bytes(16), b"solid" * 9], ids=str)
def test_other_files_have_no_metadata(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "mesh.glb").write_bytes(content)
    assert glb_metadata(tmp_path / "mesh.glb") == {}


def test_obj_carries_the_metadata_in_comments_only(tetrahedron: Mesh, tmp_path: Path) -> None:
    write_mesh(tetrahedron, tmp_path / "mesh.obj", METADATA)
    lines = (tmp_path / "mesh.obj").read_text(encoding="utf-8").splitlines()
    assert '# prompt: a "cat" with ☃' in lines
    assert "# seed: 0" in lines
    assert all(line.split()[0] in {"#", "v", "vn", "f", "o"} for line in lines if line)


@pytest.mark.parametrize("suffix", ["glb", "obj", "ply", "stl"])
def test_mesh_without_colors_and_normals_is_written(tetrahedron: Mesh, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mesh.{suffix}"
    write_mesh(Mesh(tetrahedron.vertices, tetrahedron.faces), path)
    assert len(read(path).faces) == 4


def test_ply_carries_the_metadata_in_comments(tetrahedron: Mesh, tmp_path: Path) -> None:
    write_mesh(tetrahedron, tmp_path / "mesh.ply", METADATA)
    header = (tmp_path / "mesh.ply").read_bytes().split(b"end_header")[0].decode("ascii")
    assert 'comment prompt: a "cat" with \\u2603\n' in header


@pytest.fixture
def textured(tetrahedron: Mesh) -> Mesh:
    """The tetrahedron with a texture that is red in its upper left quarter and green elsewhere."""
    texture = np.full((16, 16, 3), (0, 255, 0), np.uint8)
    texture[:8, :8] = (255, 0, 0)
    uv = np.array([[0.1, 0.6], [0.4, 0.6], [0.1, 0.9], [0.9, 0.1]], np.float32)
    return replace(tetrahedron, colors=None, uv=uv, texture=texture)


@pytest.mark.parametrize("suffix", ["glb", "obj"])
def test_texture_and_coordinates_read_back_are_the_same(textured: Mesh, tmp_path: Path, suffix: str) -> None:
    written = write_mesh(textured, tmp_path / f"mesh.{suffix}")
    loaded = read(tmp_path / f"mesh.{suffix}")
    material = loaded.visual.material
    image = material.baseColorTexture if suffix == "glb" else material.image
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), textured.texture)
    order = [int(np.linalg.norm(loaded.vertices - v, axis=1).argmin()) for v in textured.vertices]
    np.testing.assert_allclose(loaded.visual.uv[order], textured.uv, atol=1e-6)
    names = {"glb": ["mesh.glb"], "obj": ["mesh.obj", "mesh.mtl", "mesh.png"]}[suffix]
    assert [path.name for path in written] == names
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_material_of_a_glb_follows_the_finish(textured: Mesh, tmp_path: Path) -> None:
    write_mesh(textured, tmp_path / "mesh.glb", finish=Finish(roughness=0.25, double_sided=True, unlit=True))
    header = gltf_header(tmp_path / "mesh.glb")
    (material,) = header["materials"]
    assert material["doubleSided"] is True
    assert material["pbrMetallicRoughness"]["roughnessFactor"] == 0.25
    assert material["extensions"] == {"KHR_materials_unlit": {}}
    assert header["extensionsUsed"] == ["KHR_materials_unlit"]
    sampler = header["samplers"][header["textures"][0]["sampler"]]
    assert (sampler["wrapS"], sampler["wrapT"]) == (33071, 33071)  # clamped to the edge; the default repeats


def test_usdz_read_back_by_usd_is_the_same(textured: Mesh, tmp_path: Path) -> None:
    usd = pytest.importorskip("pxr.Usd", reason="usd-core is not installed: pip install 'dreamfusion[usd]'")
    from pxr import UsdGeom, UsdShade

    write_mesh(textured, tmp_path / "mesh.usdz", METADATA, Finish(roughness=0.5))
    stage = usd.Stage.Open(str(tmp_path / "mesh.usdz"))
    assert UsdGeom.GetStageUpAxis(stage) == "Y"
    assert UsdGeom.GetStageMetersPerUnit(stage) == 1.0
    assert json.loads(stage.GetMetadata("comment"))["prompt"] == METADATA["prompt"]
    shape = UsdGeom.Mesh(stage.GetPrimAtPath("/dreamfusion/mesh"))
    np.testing.assert_allclose(np.asarray(shape.GetPointsAttr().Get()), textured.vertices)
    np.testing.assert_array_equal(np.asarray(shape.GetFaceVertexIndicesAttr().Get()), textured.faces.reshape(-1))
    np.testing.assert_allclose(np.asarray(UsdGeom.PrimvarsAPI(shape).GetPrimvar("st").Get()), textured.uv)
    material, _ = UsdShade.MaterialBindingAPI(shape).ComputeBoundMaterial()
    assert UsdShade.Shader(stage.GetPrimAtPath(f"{material.GetPath()}/surface")).GetInput("roughness").Get() == 0.5
    image = UsdShade.Shader(stage.GetPrimAtPath(f"{material.GetPath()}/texture"))
    assert [image.GetInput(side).Get() for side in ("wrapS", "wrapT")] == ["clamp", "clamp"]
    write_mesh(textured, tmp_path / "lit.usdz", METADATA, Finish(unlit=True))
    shining = usd.Stage.Open(str(tmp_path / "lit.usdz"))
    lit = UsdShade.Shader(shining.GetPrimAtPath(f"{material.GetPath()}/surface"))
    assert lit.GetInput("emissiveColor").HasConnectedSource() and lit.GetInput("diffuseColor").Get() == (0, 0, 0)
    write_mesh(textured, tmp_path / "upright.usdz", METADATA | {"up": "z"})
    assert UsdGeom.GetStageUpAxis(usd.Stage.Open(str(tmp_path / "upright.usdz"))) == "Z"
    with zipfile.ZipFile(tmp_path / "mesh.usdz") as package:
        picture = next(name for name in package.namelist() if name.endswith(".png"))
        with package.open(picture) as file:
            np.testing.assert_array_equal(np.asarray(Image.open(file)), textured.texture)


VALIDATE = """
const validator = require("gltf-validator"), fs = require("fs");
validator.validateBytes(new Uint8Array(fs.readFileSync(process.argv[1])))
  .then(report => console.log(JSON.stringify(report.issues)));
"""


@pytest.mark.parametrize("kind", ["textured", "colored", "bare", "unlit"])
def test_khronos_validator_finds_nothing_in_a_glb(
    kind: str, textured: Mesh, tetrahedron: Mesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, made = shutil.which("node"), Path(sys.prefix) / "node_modules"  # where `make install` puts it
    monkeypatch.setenv("NODE_PATH", os.pathsep.join([str(made), os.environ.get("NODE_PATH", "")]))
    if node is None or subprocess.run([node, "-e", "require('gltf-validator')"], capture_output=True).returncode:
        pytest.skip(f"gltf-validator is not installed: npm install --no-save --prefix {sys.prefix} gltf-validator")
    bare = Mesh(tetrahedron.vertices, tetrahedron.faces)
    mesh = {"textured": textured, "unlit": textured, "colored": tetrahedron, "bare": bare}[kind]
    write_mesh(mesh, tmp_path / "mesh.glb", METADATA, Finish(double_sided=True, unlit=kind == "unlit"))
    said = subprocess.run([node, "-e", VALIDATE, tmp_path / "mesh.glb"], capture_output=True, text=True, check=True)
    issues = json.loads(said.stdout)
    assert (issues["numErrors"], issues["numWarnings"], issues["messages"]) == (0, 0, [])


def test_same_mesh_gives_the_same_bytes(tetrahedron: Mesh, tmp_path: Path) -> None:
    for name in ("a.glb", "b.glb"):
        write_mesh(tetrahedron, tmp_path / name, METADATA)
    assert (tmp_path / "a.glb").read_bytes() == (tmp_path / "b.glb").read_bytes()


def test_folders_are_created_and_no_temporary_file_remains(tetrahedron: Mesh, tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "mesh.GLB"
    write_mesh(tetrahedron, path)
    write_mesh(tetrahedron, path)  # overwrite
    assert list(path.parent.iterdir()) == [path]


def test_failed_write_keeps_the_old_file(tetrahedron: Mesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mesh.ply"
    path.write_bytes(b"old")

    def full_disk(self: Path, data: bytes) -> int:
        self.touch()
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write_mesh(tetrahedron, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_unknown_suffix_lists_the_formats(tetrahedron: Mesh, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"suffix '\.fbx'; the formats are glb, obj, ply, stl, usdz"):
        write_mesh(tetrahedron, tmp_path / "mesh.fbx")
    assert not list(tmp_path.iterdir())


def test_mesh_without_faces_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no faces"):
        write_mesh(Mesh(np.zeros((3, 3), np.float32), np.zeros((0, 3), np.int64)), tmp_path / "mesh.glb")
