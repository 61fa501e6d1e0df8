"""A 3MF, as an XML parser and, where it is installed, the consortium's own library read it."""

import io
import zipfile
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import trimesh
from PIL import Image

from dreamfusion.export.writer import write_mesh
from dreamfusion.types import Mesh

CORE = "{http://schemas.microsoft.com/3dmanufacturing/core/2015/02}"
MATERIAL = "{http://schemas.microsoft.com/3dmanufacturing/material/2015/02}"


@pytest.fixture
def cube():
    """A cube of a metre whose vertices are split at all faces, as at seams, and have a colour at each place."""
    box = trimesh.creation.box((1, 1, 1))
    vertices = box.vertices[box.faces].reshape(-1, 3).astype(np.float32)
    return Mesh(vertices, np.arange(len(vertices)).reshape(-1, 3), colors=vertices + 0.5)


@pytest.fixture
def textured(cube):
    texture = np.zeros((8, 8, 3), np.uint8)
    texture[..., 1] = np.arange(64).reshape(8, 8)
    return replace(cube, colors=None, uv=np.random.default_rng(0).random((36, 2), np.float32), texture=texture)


def model(path):
    with zipfile.ZipFile(path) as package:
        return ElementTree.fromstring(package.read("3D/3dmodel.model"))


def solid(root):
    vertices = [[float(v.get(axis)) for axis in "xyz"] for v in root.iter(f"{CORE}vertex")]
    triangles = list(root.iter(f"{CORE}triangle"))
    return np.array(vertices), np.array([[int(t.get(v)) for v in ("v1", "v2", "v3")] for t in triangles]), triangles


def test_a_solid_has_no_seams_is_in_millimetres_and_stands_on_the_plate(cube, tmp_path):
    write_mesh(cube, tmp_path / "mesh.3mf", {"prompt": "a <cat> & \x00☃", "seed": "1"})
    root = model(tmp_path / "mesh.3mf")
    vertices, faces, _ = solid(root)
    shape = trimesh.Trimesh(vertices, faces, process=False)
    assert root.get("unit") == "millimeter" and len(vertices) == 8
    assert shape.is_watertight and shape.volume == pytest.approx(1e9)
    np.testing.assert_allclose(shape.bounds, [[0, 0, 0], [1000, 1000, 1000]])
    about = {entry.get("name"): entry.text for entry in root.iter(f"{CORE}metadata")}
    assert about["Title"] == "a <cat> & ☃" and "seed: 1" in about["Description"]


def test_each_corner_of_a_solid_has_the_display_color_of_its_vertex(cube, tmp_path):
    write_mesh(cube, tmp_path / "mesh.3mf")
    root = model(tmp_path / "mesh.3mf")
    vertices, faces, triangles = solid(root)
    colors = [color.get("color") for color in root.iter(f"{MATERIAL}color")]
    found = [[colors[int(t.get(p))] for p in ("p1", "p2", "p3")] for t in triangles]
    wanted = [["#{:02X}{:02X}{:02X}".format(*np.rint(vertices[v] * 0.255).astype(int)) for v in face] for face in faces]
    assert found == wanted
    (thing,) = root.iter(f"{CORE}object")
    assert (thing.get("pid"), thing.get("pindex")) == ("1", "0")  # required by the core specification


def test_a_textured_solid_keeps_the_texture_and_its_places(textured, tmp_path):
    write_mesh(textured, tmp_path / "mesh.3mf")
    root = model(tmp_path / "mesh.3mf")
    _, _, triangles = solid(root)
    places = np.array([[float(c.get(axis)) for axis in "uv"] for c in root.iter(f"{MATERIAL}tex2coord")])
    corners = [[int(t.get(p)) for p in ("p1", "p2", "p3")] for t in triangles]
    np.testing.assert_allclose(places[corners], textured.uv[textured.faces], atol=1e-6)
    with zipfile.ZipFile(tmp_path / "mesh.3mf") as package:
        picture = Image.open(io.BytesIO(package.read("3D/Textures/texture.png")))
        assert "3D/_rels/3dmodel.model.rels" in package.namelist()
    np.testing.assert_array_equal(np.asarray(picture), textured.texture)


def test_the_same_mesh_gives_the_same_bytes(cube, tmp_path):
    for name in ("a.3mf", "b.3mf"):
        write_mesh(cube, tmp_path / name)
    assert (tmp_path / "a.3mf").read_bytes() == (tmp_path / "b.3mf").read_bytes()


@pytest.mark.parametrize("kind", ["colored", "textured", "bare"])
def test_the_library_of_the_3mf_consortium_reads_it_without_a_warning(kind, cube, textured, tmp_path):
    lib3mf = pytest.importorskip("lib3mf", reason="lib3mf is not installed: pip install lib3mf")
    mesh = {"colored": cube, "textured": textured, "bare": Mesh(cube.vertices, cube.faces)}[kind]
    write_mesh(mesh, tmp_path / "mesh.3mf", {"prompt": "a cat"})
    read = lib3mf.get_wrapper().CreateModel()
    reader = read.QueryReader("3mf")
    reader.SetStrictModeActive(True)
    reader.ReadFromFile(str(tmp_path / "mesh.3mf"))
    assert reader.GetWarningCount() == 0
    objects = read.GetMeshObjects()
    assert objects.MoveNext()
    shape = objects.GetCurrentMeshObject()
    assert shape.IsManifoldAndOriented() and shape.GetVertexCount() == 8 and shape.GetTriangleCount() == 12
    assert read.GetColorGroups().Count() == (kind == "colored")
    assert read.GetTexture2DGroups().Count() == (kind == "textured")
