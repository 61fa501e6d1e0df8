"""The Jinja2 templates of the two HTML pages, and the filters that embed files in a page or link to them.

Autoescape is on: only the SVG charts and the viewer, which come from this package, enter a page as markup.
"""

import base64
import os
from functools import cache
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dreamfusion import __version__
from dreamfusion.files import replacing

MEDIA_TYPES = {".glb": "model/gltf-binary", ".mp4": "video/mp4", ".png": "image/png", ".jpg": "image/jpeg"}


def write_html(template: str, path: Path, **values: object) -> None:
    """Render `template`, a file of this folder, with `values` and write the page to `path`, atomically."""
    document = _environment().get_template(template).render(values)
    with replacing(path) as draft:
        draft.write_text(document, encoding="utf-8")


def data_url(path: Path) -> str:
    """The file as a data URL.

    Raises:
        ValueError: the suffix is none of glb, mp4, png, jpg.
    """
    media_type = MEDIA_TYPES.get(path.suffix.lower())
    if media_type is None:
        raise ValueError(
            f"cannot embed {path.name!r}: a page shows {', '.join(s.lstrip('.') for s in MEDIA_TYPES)} files"
        )
    return f"data:{media_type};base64,{encode_base64(path.read_bytes())}"


def encode_base64(data: bytes) -> str:
    """`data` as base64 text."""
    return base64.b64encode(data).decode("ascii")


def relative_path(path: Path, folder: Path) -> str:
    """`path` relative to `folder`, with forward slashes."""
    return Path(os.path.relpath(path, folder)).as_posix()


def relative_url(path: Path, folder: Path) -> str:
    """The address of `path` in a page that lies in `folder`."""
    try:
        return f"./{quote(relative_path(path, folder))}"
    except ValueError:  # on another drive of Windows
        return path.absolute().as_uri()


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("dreamfusion", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for function in (data_url, relative_path, relative_url):
        environment.filters[function.__name__] = function
    environment.globals |= {"version": __version__, "script": script}
    return environment


def script(name: str) -> Markup:
    """The source of a script of assets/, such as the 3D viewer (model-viewer)."""
    return Markup(files("dreamfusion.report").joinpath(f"assets/{name}").read_text(encoding="utf-8"))
