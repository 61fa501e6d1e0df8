"""A GLB in Blender, where that is installed: `pip install bpy`, or a program `blender`."""

import importlib.util
import shutil
import subprocess
import sys

import numpy as np
import pytest
import trimesh
from launched import ROOT
from PIL import Image

from dreamfusion.export.writer import write_mesh
from dreamfusion.types import Mesh

SCRIPT = ROOT / "docs" / "blender_picture.py"


def blender():
    """The start of a command that runs the script of docs/assets.md."""
    if importlib.util.find_spec("bpy"):
        return [sys.executable, SCRIPT]
    if program := shutil.which("blender"):
        return [program, "--background", "--python-exit-code", "1", "--python", SCRIPT, "--"]
    pytest.skip("Blender is not installed: pip install bpy, or apt install blender")


def test_blender_opens_a_glb_upright_and_in_its_colours(tmp_path):
    box = trimesh.creation.box((0.5, 1.0, 0.25))  # x, y, z; y is up
    vertices = box.vertices[box.faces].reshape(-1, 3)
    uv = np.full((len(vertices), 2), 0.5, np.float32)
    red = np.full((8, 8, 3), (200, 20, 20), np.uint8)
    mesh = Mesh(vertices.astype(np.float32), np.arange(len(vertices)).reshape(-1, 3), uv=uv, texture=red)
    write_mesh(mesh, tmp_path / "mesh.glb")
    command = [*blender(), tmp_path / "mesh.glb", tmp_path / "picture.png"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert "dreamfusion: 12 faces, 0.5 x 0.25 x 1 m" in said  # in Blender, z is up
    red, green, blue = np.asarray(Image.open(tmp_path / "picture.png").convert("RGB"))[200, 200].astype(int)
    assert red > 100 > 2 * max(green, blue)
