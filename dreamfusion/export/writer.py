"""A `Mesh` to a file that other programs open: GLB, OBJ, PLY or STL by the suffix of the path (stage 15).

All keep the scene's units and axes: y up, the front towards +z, as glTF has it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import trimesh
from trimesh.visual.material import PBRMaterial

from dreamfusion import __version__
from dreamfusion.export.atomic import replacing
from dreamfusion.types import Mesh

ROUGHNESS = 0.9  # matte: the albedo was trained under diffuse light only (Poole et al. 2022, Eq. 7)


def write_mesh(mesh: Mesh, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write `mesh` in the format of the path's suffix, atomically, over a file that is there already.

    `metadata` (prompt, seed, ...) goes into `asset.extras` of a GLB and into comments at the head of an OBJ;
    PLY and STL have no place for it. STL has no colours.

    Raises:
        ValueError: a suffix that is none of the four, or a mesh without faces.
    """
    encode = _ENCODERS.get(path.suffix.lower())
    if encode is None:
        raise ValueError(
            f"cannot write {path.name!r}: no mesh format has the suffix {path.suffix!r}; "
            f"the formats are {', '.join(FORMATS)} (export=glb)"
        )
    if len(mesh.faces) == 0:
        raise ValueError(f"cannot write {path.name!r}: the mesh has no faces")
    data = encode(mesh, dict(metadata or {}))
    with replacing(path) as draft:
        draft.write_bytes(data)


def linear_from_srgb(colors: np.ndarray) -> np.ndarray:
    """Display colours in [0, 1] -> linear light (IEC 61966-2-1)."""
    return np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)


def _glb(mesh: Mesh, metadata: dict[str, str]) -> bytes:
    """Vertex colours of glTF are linear (glTF 2.0, 3.7.2.1) while ours are display colours, so they are converted;
    as floats, since 8 bits of linear light show bands in the dark. trimesh itself writes 8 bits, hence the detour
    over an attribute of our own name. The material is one-sided: the surface is closed, nobody sees its back.
    """
    material = PBRMaterial(baseColorFactor=[255, 255, 255, 255], metallicFactor=0.0, roughnessFactor=ROUGHNESS)
    surface = _surface(mesh)
    surface.visual = trimesh.visual.TextureVisuals(material=material)
    if mesh.colors is not None:
        surface.vertex_attributes["_linear_color"] = linear_from_srgb(mesh.colors).astype(np.float32)

    def finish(tree: dict) -> None:
        attributes = tree["meshes"][0]["primitives"][0]["attributes"]
        if "_linear_color" in attributes:
            attributes["COLOR_0"] = attributes.pop("_linear_color")
        tree["meshes"][0]["name"] = tree["nodes"][0]["name"] = "dreamfusion"  # as the object is called in Blender
        tree["asset"] = {"version": "2.0", "generator": f"dreamfusion {__version__}", "extras": metadata}

    return bytes(surface.export(file_type="glb", include_normals=True, tree_postprocessor=finish))


def _obj(mesh: Mesh, metadata: dict[str, str]) -> bytes:
    """Colours as `v x y z r g b`, which MeshLab, Blender and most viewers read."""
    lines = [f"dreamfusion {__version__}", *(f"{key}: {value}" for key, value in metadata.items())]
    header = "\n# ".join(" ".join(line.split()) for line in lines)  # a line break in a value would end the comment
    return str(_colored(mesh).export(file_type="obj", include_normals=True, header=header)).encode()


def _ply(mesh: Mesh, _: dict[str, str]) -> bytes:
    return bytes(_colored(mesh).export(file_type="ply", vertex_normal=True))


def _stl(mesh: Mesh, _: dict[str, str]) -> bytes:
    return bytes(_surface(mesh).export(file_type="stl"))


def _surface(mesh: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_normals=mesh.normals, process=False)


def _colored(mesh: Mesh) -> trimesh.Trimesh:
    surface = _surface(mesh)
    if mesh.colors is not None:
        surface.visual = trimesh.visual.ColorVisuals(surface, vertex_colors=np.rint(mesh.colors * 255).astype(np.uint8))
    return surface


_ENCODERS: dict[str, Callable[[Mesh, dict[str, str]], bytes]] = {".glb": _glb, ".obj": _obj, ".ply": _ply, ".stl": _stl}
FORMATS = tuple(suffix.lstrip(".") for suffix in _ENCODERS)
