"""The laboratory's ground truth: the very models that the pocket prior's names mean, in `data/`, one file a name.

`mode=truth` makes the files. Meshes are in the prior's convention: y up, the front towards +z, centred, the farthest
vertex of the model at distance 1. Letters: A azimuths of the reference views, r pixels a side.
"""

import io
import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dreamfusion.error import UserError
from dreamfusion.files import replacing
from dreamfusion.types import Mesh

DATA = Path(__file__).parent / "data"
INDEX = "index.json"
EXTENT = 1.1  # scene units that the largest coordinate stands for
AZIMUTHS, ELEVATION, DISTANCE = 24, 15.0, 3.0  # of the reference views: degrees, scene units
TEXTURE_QUALITY, VIEW_QUALITY = 88, 90  # of WebP; opacity is lossless


@dataclass(frozen=True, eq=False)
class Truth:
    """What a name means."""

    name: str
    mesh: Mesh  # closed, with texture and normals
    views: np.ndarray | None  # (A, r, r, 4) uint8 albedo and opacity of the library's model, azimuth 0 (front) first
    about: dict[str, Any]  # the name's entry in index.json: origin, licence, errors, whether it is held out


def names(held_out: bool | None = None, data: Path = DATA) -> list[str]:
    """The names with a truth; only those that are held out of every tuning, or only the others."""
    index = _index(data)
    return [name for name, about in index.items() if held_out in (None, about["held_out"])]


def find_truth(prompt: str, data: Path = DATA) -> Truth | None:
    """The truth that a prompt such as "a cat" names; None if it names none, or more than a name."""
    name = re.sub(r"^(an?|the)\s+", "", prompt.strip().lower())
    return _read(name, data) if name in _index(data) else None


def truth_of(prompt: str, data: Path = DATA) -> Truth:
    """The truth that a prompt names.

    Raises:
        UserError: there is none; the message lists some that there are.
    """
    found = find_truth(prompt, data)
    if found is None:
        raise no_truth(prompt, data)
    return found


def no_truth(prompt: str, data: Path = DATA) -> UserError:
    """The error for a prompt without a truth."""
    known = names(data=data)
    return UserError(
        f'the laboratory has no truth for "{prompt}"; it has {len(known)}, "a {known[0]}" for example: '
        f"see dreamfusion/truth/data/{INDEX}"
    )


def write_truth(name: str, mesh: Mesh, views: np.ndarray, data: Path) -> int:
    """Write the file of a name; returns its size in bytes.

    Raises:
        ValueError: the mesh has too many vertices or is too large for the file's integers.
    """
    assert mesh.uv is not None and mesh.normals is not None and mesh.texture is not None
    if len(mesh.vertices) > 2**16 or np.abs(mesh.vertices).max() > EXTENT:
        raise ValueError(f"{name}: {len(mesh.vertices)} vertices up to {np.abs(mesh.vertices).max():.3g} from the axes")
    content = {
        "vertices": np.rint(mesh.vertices / EXTENT * 32767).astype(np.int16),
        "normals": np.rint(mesh.normals * 127).astype(np.int8),
        "uv": np.rint(mesh.uv * 1023).astype(np.uint16),
        "faces": mesh.faces.astype(np.uint16),
        "texture": _encoded(mesh.texture, TEXTURE_QUALITY),
        "views": _encoded(np.concatenate(views), VIEW_QUALITY),
    }
    path = file_of(name, data)
    with replacing(path) as draft, draft.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **content)
    return path.stat().st_size


def file_of(name: str, data: Path) -> Path:
    """The file of a name."""
    return data / f"{re.sub(r'[^a-z0-9]+', '-', name)}.npz"


@cache
def _read(name: str, data: Path) -> Truth:
    with np.load(file_of(name, data), allow_pickle=False) as file:
        content = {key: file[key] for key in file.files}
    normals = content["normals"].astype(np.float32)
    mesh = Mesh(
        vertices=content["vertices"].astype(np.float32) * (EXTENT / 32767),
        faces=content["faces"].astype(np.int64),
        normals=normals / np.linalg.norm(normals, axis=1, keepdims=True).clip(min=1e-6),
        uv=content["uv"].astype(np.float32) / 1023,
        texture=_decoded(content["texture"])[..., :3],
    )
    strip = _decoded(content["views"])
    return Truth(name, mesh, strip.reshape(AZIMUTHS, -1, *strip.shape[1:]), _index(data)[name])


@cache
def _index(data: Path) -> dict[str, dict[str, Any]]:
    content: dict[str, dict[str, Any]] = json.loads((data / INDEX).read_text(encoding="utf-8"))
    return content


def _encoded(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", quality=quality, method=6)
    return np.frombuffer(file.getvalue(), np.uint8)


def _decoded(content: np.ndarray) -> np.ndarray:
    with Image.open(io.BytesIO(content.tobytes())) as picture:
        return np.asarray(picture)
