"""A handwritten Sweet Home 3D library for tests of the pocket prior's data."""

import zipfile
from pathlib import Path

HEADER = """# a furniture catalogue
name=Test models
license=CC0  \\u00a9 nobody
provider=www.example.org
"""

# A box of 2 x 1 x 1: red front (+z), textured right side (+x), all other sides Java 3D's "white".
OBJ = """mtllib box.mtl
v -1 0 0
v 1 0 0
v 1 1 0
v -1 1 0
v -1 0 1
v 1 0 1
v 1 1 1
v -1 1 1
vt 0 0
vt 1 0
vt 1 1
vt 0 1
usemtl front
f 5 6 7 8
usemtl side
f 6/1 2/2 3/3 7/4
usemtl white
f 2 1 4 3
f 1 5 8 4
f 8 7 3 4
f 1 2 6 5
usemtl pane
f 5 6 3
"""

MTL = """newmtl front
Kd 1.0 0.0 0.0
newmtl side
Kd 0.1 0.1 0.1
map_Kd C:\\Users\\someone\\side.png
newmtl pane
Kd 0.0 0.0 1.0
d 0.05
"""


def write_library(path: Path, items: str, files: dict[str, bytes]) -> Path:
    """Write a `.sh3f` file with the catalogue entries `items` and the model files."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("PluginFurnitureCatalog.properties", HEADER + items)
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def entry(number: int, name: str, model: str, **more: str) -> str:
    fields = {"name": name, "model": model, "creator": "Nobody", "tags": "Test, Box", "category": "Things", **more}
    return "".join(f"{key}#{number}={value}\n" for key, value in fields.items())
