"""The truth of a prompt with several objects: the models of their names, each at its place, as one mesh."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from dreamfusion.truth.store import DATA, Truth, find_truth
from dreamfusion.types import Mesh


@dataclass(frozen=True)
class Placed:
    """A named model, and where it stands."""

    name: str
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)  # scene units
    scale: float = 1.0


@runtime_checkable
class Composer(Protocol):
    """A prior that knows which models a prompt means, and where they stand."""

    def layout(self, prompt: str) -> tuple[Placed, ...] | None:
        """The models that the prompt shows as they are; None if it shows other ones, or in other colours."""
        ...


def composed(layout: Sequence[Placed] | None, data: Path = DATA) -> Truth | None:
    """The truth of a layout; None without one, or if one of its models has none."""
    if layout is None:
        return None
    found = [find_truth(placed.name, data) for placed in layout]
    truths = [truth for truth in found if truth is not None]
    if not truths or len(truths) < len(found):
        return None
    if len(truths) == 1 and layout[0] == Placed(truths[0].name):
        return truths[0]
    meshes = [_moved(truth.mesh, placed) for truth, placed in zip(truths, layout, strict=True)]
    parts = [asdict(placed) | truth.about for truth, placed in zip(truths, layout, strict=True)]
    return Truth(", ".join(truth.name for truth in truths), merged(meshes), None, {"parts": parts})


def merged(meshes: Sequence[Mesh]) -> Mesh:
    """One mesh of textured meshes with normals; their textures lie one below the other in one image."""
    textures = [mesh.texture for mesh in meshes if mesh.texture is not None]
    normals = [mesh.normals for mesh in meshes if mesh.normals is not None]
    height, width = sum(len(texture) for texture in textures), max(texture.shape[1] for texture in textures)
    image = np.zeros((height, width, 3), textures[0].dtype)
    uv, faces, top, before = [], [], 0, 0
    for mesh, texture in zip(meshes, textures, strict=True):
        rows, columns = texture.shape[:2]
        image[top : top + rows, :columns] = texture
        assert mesh.uv is not None
        # v counts from the lowest row of the image.
        uv.append(np.stack([mesh.uv[:, 0] * columns / width, 1 - (top + (1 - mesh.uv[:, 1]) * rows) / height], axis=1))
        faces.append(mesh.faces + before)
        top, before = top + rows, before + len(mesh.vertices)
    return Mesh(
        vertices=np.concatenate([mesh.vertices for mesh in meshes]),
        faces=np.concatenate(faces),
        normals=np.concatenate(normals),
        uv=np.concatenate(uv).astype(np.float32),
        texture=image,
    )


def _moved(mesh: Mesh, placed: Placed) -> Mesh:
    vertices = mesh.vertices * placed.scale + np.asarray(placed.centre)
    return replace(mesh, vertices=vertices.astype(np.float32))
