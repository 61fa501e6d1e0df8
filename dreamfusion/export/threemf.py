"""Encode a `Mesh` as 3MF, the format of slicers: core specification 1.3, materials and properties extension 1.2.

A ZIP archive of XML. trimesh writes it without colours and with random names; ours are the same bytes each time.
"""

import io
import zipfile
from collections.abc import Iterable, Mapping
from xml.sax.saxutils import escape

import numpy as np

from dreamfusion import __version__
from dreamfusion.export.comments import FORBIDDEN
from dreamfusion.types import Mesh

MODEL, TEXTURE = "3D/3dmodel.model", "3D/Textures/texture.png"
CORE = "http://schemas.microsoft.com/3dmanufacturing/core/2015/02"
MATERIAL = "http://schemas.microsoft.com/3dmanufacturing/material/2015/02"
RELATIONSHIP = "http://schemas.microsoft.com/3dmanufacturing/2013/01"
PACKAGE = "http://schemas.openxmlformats.org/package/2006"
TYPES = {
    "rels": "application/vnd.openxmlformats-package.relationships+xml",
    "model": "application/vnd.ms-package.3dmanufacturing-3dmodel+xml",
    "png": "image/png",
}
HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time of a ZIP archive


def threemf(mesh: Mesh, texture: bytes | None, metadata: Mapping[str, str]) -> bytes:
    """The bytes of the file: one solid, with its texture, or else its vertex colours.

    Args:
        mesh: in millimetres. Vertices of one position, as at the seams of a texture, become one: a solid has no seams.
        texture: a PNG file, or None.
        metadata: texts by name; the prompt becomes the title.
    """
    places, place = np.unique(mesh.vertices, axis=0, return_inverse=True)
    properties, of_vertex = "", None
    if texture is not None and mesh.uv is not None:
        properties, of_vertex = _texture(mesh.uv), np.arange(len(mesh.vertices))
    elif mesh.colors is not None:
        colors, of_vertex = np.unique(np.rint(mesh.colors * 255).astype(int), axis=0, return_inverse=True)
        properties = _colors(colors)
    files: dict[str, str | bytes] = {
        "[Content_Types].xml": _content_types(),
        "_rels/.rels": _relationships({MODEL: "3dmodel"}),
        MODEL: _model(places, place.reshape(-1)[mesh.faces], properties, of_vertex, mesh.faces, metadata),
    }
    if texture is not None:
        files |= {"3D/_rels/3dmodel.model.rels": _relationships({TEXTURE: "3dtexture"}), TEXTURE: texture}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as package:
        for name, content in files.items():
            package.writestr(zipfile.ZipInfo(name, EPOCH), content, zipfile.ZIP_DEFLATED)
    return archive.getvalue()


def _model(
    vertices: np.ndarray,
    faces: np.ndarray,
    properties: str,
    of_vertex: np.ndarray | None,
    corners: np.ndarray,
    metadata: Mapping[str, str],
) -> str:
    """The XML of the solid; the corners (F, 3) have the properties `of_vertex` of their vertices."""
    about = {"Title": metadata.get("prompt", "dreamfusion"), "Application": f"dreamfusion {__version__}"}
    about["Description"] = ", ".join(f"{name}: {value}" for name, value in metadata.items())
    points = "".join(f'<vertex x="{x:.9g}" y="{y:.9g}" z="{z:.9g}"/>\n' for x, y, z in vertices)
    if of_vertex is None:
        triangles = "".join(f'<triangle v1="{a}" v2="{b}" v3="{c}"/>\n' for a, b, c in faces)
    else:
        triangles = "".join(
            f'<triangle v1="{a}" v2="{b}" v3="{c}" pid="1" p1="{i}" p2="{j}" p3="{k}"/>\n'
            for (a, b, c), (i, j, k) in zip(faces, of_vertex.reshape(-1)[corners], strict=True)
        )
    default = ' pid="1" pindex="0"' if properties else ""  # required where triangles have properties
    return (
        f'{HEAD}<model unit="millimeter" xml:lang="en-US" xmlns="{CORE}" xmlns:m="{MATERIAL}">\n'
        + "".join(
            f'<metadata name="{name}">{escape(FORBIDDEN.sub("", text))}</metadata>\n' for name, text in about.items()
        )
        + f'<resources>\n{properties}<object id="3" name="dreamfusion" type="model"{default}><mesh>\n'
        f"<vertices>\n{points}</vertices>\n<triangles>\n{triangles}</triangles>\n"
        '</mesh></object>\n</resources>\n<build><item objectid="3"/></build>\n</model>\n'
    )


def _colors(colors: np.ndarray) -> str:
    """A group of display colours (N, 3), 0 to 255."""
    return '<m:colorgroup id="1">\n' + _each('<m:color color="#{:02X}{:02X}{:02X}"/>\n', colors) + "</m:colorgroup>\n"


def _texture(uv: np.ndarray) -> str:
    """The texture, and a group of places (N, 2) in it."""
    return (
        f'<m:texture2d id="2" path="/{TEXTURE}" contenttype="image/png" tilestyleu="clamp" tilestylev="clamp"/>\n'
        '<m:texture2dgroup id="1" texid="2">\n' + _each('<m:tex2coord u="{:.7g}" v="{:.7g}"/>\n', uv)
    ) + "</m:texture2dgroup>\n"


def _each(line: str, rows: Iterable[Iterable[float]]) -> str:
    return "".join(line.format(*row) for row in rows)


def _content_types() -> str:
    types = "".join(f'<Default Extension="{suffix}" ContentType="{kind}"/>' for suffix, kind in TYPES.items())
    return f'{HEAD}<Types xmlns="{PACKAGE}/content-types">{types}</Types>\n'


def _relationships(targets: Mapping[str, str]) -> str:
    """Of a part of the package, or the package, to other parts: their paths and kinds."""
    rows = "".join(
        f'<Relationship Id="rel{number}" Target="/{path}" Type="{RELATIONSHIP}/{kind}"/>'
        for number, (path, kind) in enumerate(targets.items())
    )
    return f'{HEAD}<Relationships xmlns="{PACKAGE}/relationships">{rows}</Relationships>\n'
