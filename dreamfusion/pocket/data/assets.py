"""Load a library's model as a mesh for rasterisation: upright, centred, of unit size, with colours and textures.

Second step of the pocket prior's data: catalog -> assets -> renders.
"""

import io
import json
import posixpath
import re
import zipfile
from base64 import b64decode
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from trimesh.exchange.obj import load_obj
from trimesh.resolvers import Resolver
from trimesh.visual import TextureVisuals

from dreamfusion.image import check_picture, srgb_from_linear
from dreamfusion.ops.normals import crease_normals
from dreamfusion.ops.rasterize import Material, RasterMesh
from dreamfusion.pocket.data.catalog import LARGEST_FILE, Item, read_member
from dreamfusion.pocket.data.textures import Textures

MAX_FACES = 1_500_000
MAX_NODES = 10_000  # of a glTF scene: each may show a mesh again
MIN_OPACITY = 0.15  # more transparent materials (window panes, bottles) are dropped, all others rendered opaque
STORED_NORMALS = "stored normals"  # in the metadata of a part: whether its file has them
CREASE = 45.0  # degrees between two faces, above which an edge without stored normals is sharp

_NO_MATERIAL = (0.8, 0.8, 0.8)
_DEFAULT_MATERIALS = Path(__file__).parent / "materials.mtl"


class AssetError(ValueError):
    """A model that cannot be rendered."""


def load_asset(item: Item) -> RasterMesh:
    """Mesh of an item: y up, front towards +z, bounding box centred at the origin, farthest vertex at distance 1.

    Raises:
        AssetError: the file is missing or broken, or has no faces or more than MAX_FACES.
    """
    try:
        with zipfile.ZipFile(item.archive) if item.archive else nullcontext() as archive:
            read = partial(_read_file, _folder(item)) if archive is None else partial(read_member, archive)
            parts = (_parse_obj if item.model.lower().endswith(".obj") else _parse_glb)(item.model, read)
        return _assemble([part for part in parts if len(part.faces)], item)
    except AssetError:
        raise
    # the readers raise anything on a broken model, which must not stop the others
    except Exception as error:
        raise AssetError(
            f"model {item.model} ({item.name}) of {item.source}: {type(error).__name__}: {error}"
        ) from error


def _assemble(parts: list[RasterMesh], item: Item) -> RasterMesh:
    count = sum(len(part.faces) for part in parts)
    if not 0 < count <= MAX_FACES:
        problem = "has no faces" if count == 0 else f"has {count} faces, at most {MAX_FACES} are allowed"
        raise AssetError(f"model {item.model} ({item.name}) of {item.source} {problem}")
    first = np.cumsum([0, *(len(part.vertices) for part in parts)])
    vertices = np.concatenate([part.vertices for part in parts])
    normals = np.concatenate([part.normals for part in parts if part.normals is not None])
    if item.rotation is not None:
        rotation = np.array(item.rotation)
        vertices, normals = vertices @ rotation.T, normals @ rotation.T
    faces = np.concatenate([part.faces + start for part, start in zip(parts, first[:-1], strict=True)])
    return RasterMesh(
        vertices=_unit_size(vertices, faces),
        faces=faces,
        normals=normals,
        colors=_colors(parts),
        uv=np.concatenate([np.zeros((len(p.vertices), 2)) if p.uv is None else _finite(p.uv) for p in parts]),
        material=np.repeat(np.arange(len(parts)), [len(part.faces) for part in parts]),
        materials=tuple(part.materials[0] for part in parts),
    )


def _colors(parts: list[RasterMesh]) -> np.ndarray | None:
    if all(part.colors is None for part in parts):
        return None
    return np.concatenate([np.ones_like(part.vertices) if part.colors is None else part.colors for part in parts])


def _unit_size(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    used = vertices[faces.reshape(-1)]
    centre = 0.5 * (used.min(axis=0) + used.max(axis=0))
    radius = np.linalg.norm(used - centre, axis=1).max()
    if not (np.isfinite(radius) and radius > 0):
        raise ValueError(f"the radius of the model is {radius}")
    return (vertices - centre) / radius


def _folder(item: Item) -> Path:
    """The folder of an item on disk, in which all its files must be."""
    return (item.folder or Path(item.model).parent).resolve()


def _read_file(folder: Path, path: str) -> bytes:
    """Content of a file of a library on disk.

    Raises:
        ValueError: the file is outside `folder`, also by a symbolic link, is no regular file, or is too large.
    """
    real = Path(path).resolve()
    if not real.is_relative_to(folder):
        raise ValueError(f"{path} is outside of the library {folder}")
    if not real.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    if real.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{path} is larger than {LARGEST_FILE >> 20} MiB")
    return real.read_bytes()


def _parse_obj(model: str, read: Callable[[str], bytes]) -> list[RasterMesh]:
    """One mesh per material of a Wavefront file."""
    text = read(model).decode("latin-1")
    libraries = [name.strip() for name in re.findall(r"^mtllib[ \t](.+)$", text, re.MULTILINE)]
    text = f"mtllib {_ModelFiles.MATERIALS}\n" + re.sub(r"^mtllib.*$", "", text, flags=re.MULTILINE)
    files = _ModelFiles(read, posixpath.dirname(model), libraries)
    loaded = load_obj(io.StringIO(text), resolver=files).get("geometry", {}).values()
    if files.refused is not None:
        raise files.refused
    geometries = [g for g in loaded if len(g["faces"])]
    solid = [g for g in geometries if _opacity(g["visual"]) >= MIN_OPACITY]
    textures = Textures()
    return [_obj_part(g, textures) for g in solid or geometries]


class _ModelFiles(Resolver):
    """Resolve the files a model refers to: textures, and a Wavefront file's materials, appended to the default ones.

    Only files that `read` allows; trimesh hides the errors of a texture, so the first refusal is kept in `refused`.
    """

    MATERIALS = "materials"

    def __init__(self, read: Callable[[str], bytes], folder: str, libraries: list[str]) -> None:
        self._read, self._folder, self._libraries = read, folder, libraries
        self.refused: ValueError | None = None

    def get(self, key: str) -> bytes:
        if key == self.MATERIALS:
            return b"\n".join([_DEFAULT_MATERIALS.read_bytes(), *(self._beside(name) for name in self._libraries)])
        try:
            content = self._beside(key)
            check_picture(content, key)
        except ValueError as error:
            self.refused = self.refused or error
            raise
        return content

    def _beside(self, name: str) -> bytes:
        """Read the relative path `name`; for absolute paths of the author's machine, the file of that name."""
        name = name.replace("\\", "/")
        try:
            return self._read(posixpath.normpath(posixpath.join(self._folder, name)))
        except (KeyError, OSError):
            return self._read(posixpath.join(self._folder, posixpath.basename(name)))

    def keys(self) -> list[str]:
        return [self.MATERIALS, *self._libraries]

    def write(self, name: str, data: bytes) -> None:
        raise NotImplementedError("model libraries are read only")

    def namespaced(self, namespace: str) -> Resolver:
        raise NotImplementedError("a model refers to files by path")


def _opacity(visual: TextureVisuals | None) -> float:
    """Opacity of a material: its `d`, or 1 minus its `Tr`."""
    given = {} if visual is None else getattr(visual.material, "kwargs", {})
    if "d" in given:
        return float(given["d"][-1])
    return 1.0 - float(given["tr"][-1]) if "tr" in given else 1.0


def _obj_part(geometry: dict[str, Any], textures: Textures) -> RasterMesh:
    vertices, faces, visual = geometry["vertices"], _triangles(geometry["faces"]), geometry["visual"]
    material, uv = Material(_NO_MATERIAL), None
    if visual is not None:
        material = Material(_color(visual.material.diffuse / 255))
        if visual.material.image is not None and visual.uv is not None:
            material, uv = Material(texture=textures(visual.material.image)), np.asarray(visual.uv)[:, :2]
    return _part(vertices, faces, geometry.get("vertex_normals"), uv, material)


def _color(rgba: np.ndarray) -> tuple[float, float, float]:
    return float(rgba[0]), float(rgba[1]), float(rgba[2])


def _finite(values: np.ndarray) -> np.ndarray:
    """0 in place of what is not finite, which some files have."""
    return np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)


def _triangles(polygons: np.ndarray) -> np.ndarray:
    """Triangulate polygons (F, n) as fans."""
    n = polygons.shape[1]
    return np.concatenate([polygons[:, [0, i, i + 1]] for i in range(1, n - 1)])


def _part(
    vertices: np.ndarray,
    faces: np.ndarray,
    normals: np.ndarray | None,
    uv: np.ndarray | None,
    material: Material | None,
    colors: np.ndarray | None = None,
) -> RasterMesh:
    """A mesh of one material with the given normals if valid, else with smooth normals up to creases."""
    if (
        normals is None
        or normals.shape != vertices.shape
        or not np.isfinite(normals).all()
        or not normals.any(axis=1).all()
    ):
        normals = crease_normals(vertices, faces, CREASE).reshape(-1, 3)
        corners = faces.reshape(-1)
        vertices, uv = vertices[corners], None if uv is None else uv[corners]
        colors = None if colors is None else colors[corners]
        faces = np.arange(len(corners)).reshape(-1, 3)
    materials = (Material() if material is None else material,)
    return RasterMesh(vertices=vertices, faces=faces, normals=normals, colors=colors, uv=uv, materials=materials)


def _check_glb(content: bytes) -> None:
    """Check what a binary glTF file claims, before arrays and pictures of that size are made (glTF 2.0, 4.4).

    Raises:
        ValueError: there are too many nodes, vertices, elements of an accessor, or pixels of a picture in the file.
    """
    length = int.from_bytes(content[12:16], "little")
    header = json.loads(content[20 : 20 + length])
    largest = max((accessor["count"] for accessor in header.get("accessors", [])), default=0)
    if largest > 3 * MAX_FACES:
        raise ValueError(f"an accessor has {largest} elements, at most {3 * MAX_FACES} are allowed")
    if (nodes := len(header.get("nodes", []))) > MAX_NODES:
        raise ValueError(f"the scene has {nodes} nodes, at most {MAX_NODES} are allowed")
    shown = [header["meshes"][node["mesh"]] for node in header.get("nodes", []) if "mesh" in node]
    corners = [p.get("indices", p["attributes"]["POSITION"]) for mesh in shown for p in mesh["primitives"]]
    if (faces := sum(header["accessors"][index]["count"] for index in corners) // 3) > MAX_FACES:
        raise ValueError(f"the nodes of the scene show {faces} faces, at most {MAX_FACES} are allowed")
    for meshes in (
        header.get("meshes", []),
        shown,
    ):  # each part gets all vertices of an accessor, however many share it
        parts = [p["attributes"].get("POSITION") for mesh in meshes for p in mesh["primitives"]]
        points = sum(header["accessors"][index]["count"] for index in parts if index is not None)
        if points > 3 * MAX_FACES:
            raise ValueError(f"the parts of its meshes have {points} vertices, at most {3 * MAX_FACES} are allowed")
    for number, image in enumerate(header.get("images", [])):
        if "bufferView" in image:
            view = header["bufferViews"][image["bufferView"]]
            start = 28 + length + view.get("byteOffset", 0)
            check_picture(content[start : start + view["byteLength"]], f"{number} of the file")
        elif image.get("uri", "").startswith("data:"):
            check_picture(b64decode(image["uri"].partition(",")[2]), f"{number} of the file")


def _parse_glb(model: str, read: Callable[[str], bytes]) -> list[RasterMesh]:
    """One mesh per primitive of a binary glTF file, with node transforms applied."""
    content, files = read(model), _ModelFiles(read, posixpath.dirname(model), [])
    _check_glb(content)
    scene = trimesh.load_scene(io.BytesIO(content), file_type="glb", resolver=files, process=False)
    if files.refused is not None:
        raise files.refused
    for mesh in scene.geometry.values():  # `dump` loses the colours that vertices have beside a material
        given = getattr(mesh.visual, "vertex_attributes", {})
        if "color" in given:
            mesh.vertex_attributes["color"] = given["color"]
        mesh.metadata[STORED_NORMALS] = "vertex_normals" in mesh._cache.cache  # else trimesh makes smooth ones
    textures = Textures()
    shown = [mesh for mesh in scene.dump() if isinstance(mesh, trimesh.Trimesh) and not _is_glass(mesh)]
    return [_glb_part(mesh, textures) for mesh in shown]


def _is_glass(mesh: trimesh.Trimesh) -> bool:
    """Whether a part is more transparent than MIN_OPACITY; without alphaMode=BLEND, glTF's alpha is no transparency."""
    material = getattr(mesh.visual, "material", None)
    factor = getattr(material, "baseColorFactor", None)
    blends = getattr(material, "alphaMode", None) == "BLEND"
    return blends and factor is not None and len(factor) > 3 and factor[3] / 255 < MIN_OPACITY


def _glb_part(mesh: trimesh.Trimesh, textures: Textures) -> RasterMesh:
    vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces)
    normals = np.asarray(mesh.vertex_normals) if mesh.metadata.get(STORED_NORMALS) else None
    visual = mesh.visual
    if visual.kind != "texture":
        # glTF's factors and vertex colours are linear (glTF 2.0, 3.9.2), its textures are not
        colors = srgb_from_linear(np.asarray(visual.vertex_colors)[:, :3] / 255)
        return _part(vertices, faces, normals, None, None, colors)
    factor = getattr(visual.material, "baseColorFactor", None)
    color = (1.0, 1.0, 1.0) if factor is None else _color(srgb_from_linear(np.asarray(factor) / 255))
    image = getattr(visual.material, "baseColorTexture", None)
    uv, material = None, Material(color)
    if image is not None and visual.uv is not None:
        texture = textures(image)
        if getattr(visual.material, "alphaMode", None) not in ("MASK", "BLEND"):  # OPAQUE is the default
            texture = np.concatenate([texture[..., :3], np.full_like(texture[..., :1], 255)], axis=-1)
        uv, material = np.asarray(visual.uv)[:, :2], Material(color, texture)
    colors = mesh.vertex_attributes.get("color")
    if colors is None:
        return _part(vertices, faces, normals, uv, material)
    largest = np.iinfo(colors.dtype).max if colors.dtype.kind == "u" else 1
    colors = srgb_from_linear(colors[:, :3] / largest)
    return _part(vertices, faces, normals, uv, material, colors)
