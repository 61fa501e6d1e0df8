"""A body for simulators: its mass and inertia in closed form, its parts, and MuJoCo's reading where it is installed."""

import sys
from xml.etree import ElementTree

import numpy as np
import pytest
import trimesh

from dreamfusion.error import UserError
from dreamfusion.export.robot import convex_parts, write_robot
from dreamfusion.export.writer import write_mesh
from dreamfusion.types import Mesh

SIDES, PLACE, DENSITY = np.array([0.2, 0.1, 0.3]), np.array([0.01, 0.02, 0.15]), 500.0
MASS = DENSITY * SIDES.prod()
INERTIA = MASS / 12 * (np.square(SIDES).sum() - np.square(SIDES))  # of a box, about its centre


def as_mesh(shape):
    """With all vertices split, as at the seams of a texture."""
    vertices = np.asarray(shape.vertices[shape.faces].reshape(-1, 3), np.float32)
    uv, texture = np.zeros((len(vertices), 2), np.float32), np.full((4, 4, 3), 128, np.uint8)
    return Mesh(vertices, np.arange(len(vertices)).reshape(-1, 3), uv=uv, texture=texture)


def l_shape():
    """Two boxes that share a face: 0.2 x 0.1 x 0.1 along x, and 0.1 x 0.1 x 0.1 above its one end."""
    outline = np.array([[0, 0], [0.2, 0], [0.2, 0.1], [0.1, 0.1], [0.1, 0.2], [0, 0.2]])
    faces = [[0, 1, 2], [0, 2, 3], [0, 3, 5], [3, 4, 5]]
    return trimesh.creation.extrude_triangulation(outline, np.array(faces), 0.1)


@pytest.fixture
def written(tmp_path):
    def write(shape, concavity=1.0, **more):
        mesh = as_mesh(shape)
        visual = write_mesh(mesh, tmp_path / "robot.obj")
        return write_robot(mesh, visual, {"prompt": "a --> <cat>"}, DENSITY, concavity, **more)

    return write


@pytest.fixture
def box():
    return trimesh.creation.box(SIDES).apply_translation(PLACE)


def test_mass_and_inertia_of_a_box_are_those_of_the_closed_form(box, written):
    files, mass = written(box)
    assert [path.name for path in files] == ["mesh.part00.stl", "mesh.urdf", "mesh.xml"]
    assert mass == pytest.approx(MASS)
    link = ElementTree.parse(files[1]).find("link")
    assert float(link.find("inertial/mass").get("value")) == pytest.approx(MASS)
    origin = [float(x) for x in link.find("inertial/origin").get("xyz").split()]
    np.testing.assert_allclose(origin, PLACE, atol=1e-6)
    tensor = link.find("inertial/inertia")
    np.testing.assert_allclose([float(tensor.get(name)) for name in ("ixx", "iyy", "izz")], INERTIA, rtol=1e-5)
    np.testing.assert_allclose([float(tensor.get(name)) for name in ("ixy", "ixz", "iyz")], 0, atol=1e-8)
    assert link.find("visual/geometry/mesh").get("filename") == "robot.obj"
    assert link.find("collision/geometry/mesh").get("filename") == "mesh.part00.stl"
    same = ElementTree.parse(files[2]).find("worldbody/body/inertial")
    assert float(same.get("mass")) == pytest.approx(MASS)


def test_every_part_is_a_file_in_metres_that_both_descriptions_name(box, written):
    written(box, 0.1, decompose=lambda solid, _: 3 * [solid.convex_hull])
    files, _ = written(box, 0.1, decompose=lambda solid, _: 2 * [solid.convex_hull])
    assert not files[0].with_name("mesh.part02.stl").exists()  # of the export before
    for path in files[:2]:
        part = trimesh.load(path)
        assert part.is_convex and part.volume == pytest.approx(SIDES.prod(), rel=1e-5)
    named = [mesh.get("filename") for mesh in ElementTree.parse(files[2]).findall("link/collision/geometry/mesh")]
    assert named == ["mesh.part00.stl", "mesh.part01.stl"]
    assets = [mesh.get("file") for mesh in ElementTree.parse(files[3]).findall("asset/mesh")]
    assert assets == ["robot.obj", *named]


def test_the_parts_of_a_concave_solid_fill_it_better_than_its_hull():
    pytest.importorskip("coacd", reason="coacd is not installed: pip install 'dreamfusion[urdf]'")
    solid = l_shape()
    (hull,) = convex_parts(solid, 1.0)
    parts = convex_parts(solid, 0.05)
    assert hull.volume == pytest.approx(0.0035) and solid.volume == pytest.approx(0.003)
    assert len(parts) >= 2 and sum(part.volume for part in parts) == pytest.approx(0.003, rel=0.05)


def test_a_missing_coacd_is_answered_in_one_sentence(box, monkeypatch):
    monkeypatch.setitem(sys.modules, "coacd", None)
    with pytest.raises(UserError, match=r"pip install 'dreamfusion\[urdf\]', or export.concavity=1") as error:
        convex_parts(box, 0.1)
    assert "\n" not in str(error.value)


def test_mujoco_reads_both_descriptions_and_drops_the_body_on_its_feet(box, written):
    mujoco = pytest.importorskip("mujoco", reason="mujoco is not installed: pip install mujoco")
    files, _ = written(box)
    assert mujoco.MjModel.from_xml_path(str(files[1])).ngeom >= 1  # MuJoCo fixes the first link of a URDF to the world
    model = mujoco.MjModel.from_xml_path(str(files[2]))
    assert model.body_mass.sum() == pytest.approx(MASS) and model.ngeom == 2
    np.testing.assert_allclose(np.sort(model.body_inertia[-1]), np.sort(INERTIA), rtol=1e-4)
    spec = mujoco.MjSpec.from_file(str(files[2]))
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[1, 1, 0.1], pos=[0, 0, -0.05])
    model = spec.compile()
    data = mujoco.MjData(model)
    for _ in range(1000):
        mujoco.mj_step(model, data)
    assert data.qpos[2] == pytest.approx(-0.05, abs=0.002)  # the box stood at 0 and fell by 0.05
    assert abs(data.qpos[3]) > 0.999  # upright


def test_colours_that_include_the_light_shine_in_mujoco(box, written):
    for unlit in (False, True):
        files, _ = written(box, unlit=unlit)
        assert ElementTree.parse(files[2]).find("asset/material").get("emission") == ("1" if unlit else None)
