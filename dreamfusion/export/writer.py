"""Write a `Mesh` as GLB, OBJ, PLY, STL, USDZ or 3MF, chosen by the suffix of the path (stage 15).

All formats keep the axes of the mesh. Those of slicers, STL and 3MF, are in millimetres and begin at the origin, so
that the mesh stands on the plate; the others keep its unit, the metre, and its place.
"""

import io
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image
from trimesh.exchange.obj import export_obj
from trimesh.visual.material import PBRMaterial, SimpleMaterial

from dreamfusion import __version__
from dreamfusion.export.comments import comments, ply_comments
from dreamfusion.export.settings import FORMATS
from dreamfusion.export.threemf import threemf
from dreamfusion.export.usd import usdz
from dreamfusion.files import replacing
from dreamfusion.image import linear_from_srgb
from dreamfusion.types import Mesh

MILLIMETRES = 1000.0  # in a metre
LINEAR, MIPMAPS, CLAMP = 9729, 9987, 33071  # glTF 2.0, 5.26: filters of a sampler, and its wrapping at the edges
ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER = 34962, 34963  # glTF 2.0, 5.11.5: targets of a buffer view


@dataclass(frozen=True)
class Finish:
    """Material of the surface. Matte by default, because the albedo was trained under diffuse light only (Poole et al.
    2022, Eq. 7); one-sided, because the inside of a closed surface is not visible."""

    roughness: float = 0.9  # 0 = mirror, 1 = chalk
    double_sided: bool = False
    unlit: bool = False  # the colours include the lighting; viewers add none


def write_mesh(
    mesh: Mesh, path: Path, metadata: Mapping[str, str] | None = None, finish: Finish | None = None
) -> list[Path]:
    """Write `mesh` atomically in the format of the path's suffix, replacing existing files.

    `metadata` (prompt, seed, ...) is stored in `asset.extras` of a GLB, in comments at the head of an OBJ or PLY, in
    the layer of a USDZ, and in the model of a 3MF; STL stores neither metadata nor colours. A textured OBJ has a .mtl
    and a .png of the same name beside it. PLY stores vertex colours only.

    Returns:
        The files written, `path` first.

    Raises:
        ValueError: the suffix is unknown, or the mesh has no faces.
        ImportError: usd-core, which USDZ needs, is missing; the message names the install command.
    """
    encode = _ENCODERS.get(path.suffix.lower())
    if encode is None:
        raise ValueError(
            f"cannot write {path.name!r}: no mesh format has the suffix {path.suffix!r}; "
            f"the formats are {', '.join(FORMATS)} (export=glb)"
        )
    if len(mesh.faces) == 0:
        raise ValueError(f"cannot write {path.name!r}: the mesh has no faces")
    data = encode(mesh, dict(metadata or {}), finish or Finish(), path.stem)
    written = [path.with_name(path.stem + suffix) if suffix else path for suffix in data]
    for file, content in reversed(list(zip(written, data.values(), strict=True))):  # referenced files first
        with replacing(file) as draft:
            draft.write_bytes(content)
    return written


def glb_metadata(path: Path) -> dict[str, str]:
    """The metadata that `write_mesh` stored in a GLB; empty for other and for missing files."""
    try:
        with path.open("rb") as file:
            magic, _, _, length, _ = struct.unpack("<4sIIII", file.read(20))  # glTF 2.0, 4.4: header, first chunk
            found = json.loads(file.read(length))["asset"].get("extras", {}) if magic == b"glTF" else {}
        return {str(name): str(value) for name, value in found.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, struct.error):
        return {}


def _glb(mesh: Mesh, metadata: dict[str, str], finish: Finish, _: str) -> dict[str, bytes]:
    """Encode as GLB. Textures of glTF hold display colours, as ours do, but vertex colours are linear (glTF 2.0,
    3.7.2.1). They are written as floats, because 8 bits of linear light show banding in dark regions. trimesh writes
    8 bits, so the colours pass through a custom attribute that is renamed afterwards.
    """
    material = PBRMaterial(
        baseColorFactor=[255, 255, 255, 255],
        baseColorTexture=None if mesh.texture is None else Image.fromarray(mesh.texture),
        metallicFactor=0.0,
        roughnessFactor=finish.roughness,
        doubleSided=finish.double_sided,
    )
    surface = _surface(mesh)
    surface.visual = trimesh.visual.TextureVisuals(uv=mesh.uv, material=material)
    if mesh.colors is not None:
        surface.vertex_attributes["_linear_color"] = linear_from_srgb(mesh.colors).astype(np.float32)

    def complete(tree: dict) -> None:
        attributes = tree["meshes"][0]["primitives"][0]["attributes"]
        if "_linear_color" in attributes:
            attributes["COLOR_0"] = attributes.pop("_linear_color")
        for accessor in attributes.values():
            tree["bufferViews"][tree["accessors"][accessor]["bufferView"]]["target"] = ARRAY_BUFFER
        indices = tree["accessors"][tree["meshes"][0]["primitives"][0]["indices"]]
        tree["bufferViews"][indices["bufferView"]]["target"] = ELEMENT_ARRAY_BUFFER
        tree["meshes"][0]["name"] = tree["nodes"][0]["name"] = "dreamfusion"  # object name in Blender
        tree["asset"] = {"version": "2.0", "generator": f"dreamfusion {__version__}", "extras": metadata}
        for texture in tree.get("textures", ()):  # the default repeats
            texture["sampler"] = 0
            tree["samplers"] = [{"magFilter": LINEAR, "minFilter": MIPMAPS, "wrapS": CLAMP, "wrapT": CLAMP}]
        if finish.unlit:
            tree["materials"][0].setdefault("extensions", {})["KHR_materials_unlit"] = {}
            tree["extensionsUsed"] = ["KHR_materials_unlit"]

    return {"": bytes(surface.export(file_type="glb", include_normals=True, tree_postprocessor=complete))}


def _obj(mesh: Mesh, metadata: dict[str, str], finish: Finish, name: str) -> dict[str, bytes]:
    """Encode as OBJ: vertex colours as `v x y z r g b`, which MeshLab, Blender and most viewers read, or a .mtl."""
    head = "".join(f"# {line}\n" for line in comments(metadata))
    surface = _colored(mesh)
    surface.metadata["name"] = "dreamfusion"
    if mesh.uv is None or mesh.texture is None:
        text = surface.export(file_type="obj", include_normals=True, header=None)
        return {"": (head + (_with_quads(text) if mesh.quads else text)).encode()}
    material = SimpleMaterial(
        image=Image.fromarray(mesh.texture),
        ambient=[0, 0, 0, 255],
        diffuse=[255, 255, 255, 255],
        specular=[0, 0, 0, 255],
        glossiness=1000 * (1 - finish.roughness) ** 2,
        name=name,
    )
    surface.visual = trimesh.visual.TextureVisuals(uv=mesh.uv, material=material)
    library = f"{name}.mtl"
    text, files = export_obj(
        surface, include_normals=True, return_texture=True, digits=6, mtl_name=library, header=None
    )
    # trimesh writes neither the comments nor the illumination model (0 = colour only, 1 = diffuse).
    illumination = f"\nillum {0 if finish.unlit else 1}\n"
    properties = head.encode() + files[library] + illumination.encode()
    text = _with_quads(text) if mesh.quads else text
    return {"": (head + text).encode(), ".mtl": properties, ".png": files[f"{name}.png"]}


def _with_quads(text: str) -> str:
    """An OBJ whose faces 2k and 2k + 1 are halves of quadrilaterals, joined unless a seam of the texture parts them."""
    lines = text.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("f "))
    faces = [line.split()[1:] for line in lines[first:] if line.startswith("f ")]
    rows = lines[:first] + [line for line in lines[first:] if not line.startswith("f ")]
    for one, other in zip(faces[::2], faces[1::2], strict=True):
        joined = one[0] == other[0] and one[2] == other[1]
        rows += [" ".join(["f", *corners]) for corners in ([[*one, other[2]]] if joined else [one, other])]
    return "\n".join(rows) + "\n"


def _ply(mesh: Mesh, metadata: dict[str, str], _: Finish, __: str) -> dict[str, bytes]:
    data = bytes(_colored(mesh).export(file_type="ply", vertex_normal=True))
    magic, encoding, rest = data.split(b"\n", 2)
    return {"": b"\n".join([magic, encoding, *ply_comments(metadata), rest])}


def _stl(mesh: Mesh, _: dict[str, str], __: Finish, ___: str) -> dict[str, bytes]:
    return {"": bytes(_surface(_on_plate(mesh)).export(file_type="stl"))}


def _threemf(mesh: Mesh, metadata: dict[str, str], _: Finish, __: str) -> dict[str, bytes]:
    return {"": threemf(_on_plate(mesh), _png(mesh), metadata)}


def _usdz(mesh: Mesh, metadata: dict[str, str], finish: Finish, _: str) -> dict[str, bytes]:
    colors = None if mesh.colors is None else linear_from_srgb(mesh.colors).astype(np.float32)
    comment = json.dumps({"generator": f"dreamfusion {__version__}", **metadata}, ensure_ascii=False, allow_nan=False)
    looks = finish.roughness, finish.double_sided, finish.unlit
    return {"": usdz(mesh, colors, _png(mesh), comment, *looks, metadata.get("up", "y"))}


def _png(mesh: Mesh) -> bytes | None:
    """The texture as a file."""
    if mesh.texture is None:
        return None
    file = io.BytesIO()
    Image.fromarray(mesh.texture).save(file, "PNG")
    return file.getvalue()


def _on_plate(mesh: Mesh) -> Mesh:
    """The mesh in millimetres, with the origin at the corner of its box: slicers expect no negative coordinates."""
    return replace(mesh, vertices=(mesh.vertices - mesh.vertices.min(axis=0)) * np.float32(MILLIMETRES))


def _surface(mesh: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_normals=mesh.normals, process=False)


def _colored(mesh: Mesh) -> trimesh.Trimesh:
    surface = _surface(mesh)
    if mesh.colors is not None:
        surface.visual = trimesh.visual.ColorVisuals(surface, vertex_colors=np.rint(mesh.colors * 255).astype(np.uint8))
    return surface


_Encode = Callable[[Mesh, dict[str, str], Finish, str], dict[str, bytes]]
_ENCODERS: dict[str, _Encode] = dict(
    zip((f".{name}" for name in FORMATS), (_glb, _obj, _ply, _stl, _usdz, _threemf), strict=True)
)
