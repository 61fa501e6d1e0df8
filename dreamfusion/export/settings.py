"""Allowed values of the settings in conf/export/, checked before a run trains.

Imports no mesh library: those are loaded only when a mesh is made.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from math import inf, nan
from typing import NamedTuple, Self

from omegaconf import DictConfig

from dreamfusion.error import UserError

FORMATS = ("glb", "obj", "ply", "stl", "usdz", "3mf")
PRINTED = ("stl", "3mf")  # in millimetres, as slicers expect; the others are in metres
UNTEXTURED = {"ply": "its colours are at the vertices", "stl": "it has no colours"}  # formats without textures
SPLAT, ROBOT = "splat", "urdf"  # more files than a mesh: Gaussians, and a body of convex parts
BESIDE = {SPLAT: "glb", ROBOT: "obj"}  # the format of the mesh beside them
VISUAL = "robot"  # name of the mesh of a body for simulators, which export=obj must not replace
FINEST = 1024  # cells a side; needs about eight times the memory of 512, the largest resolution measured
ABOVE_ZERO = sys.float_info.min


def mesh_file(format: str) -> str:
    """The name of the file with the mesh, for `export.format`."""
    return f"{VISUAL if format == ROBOT else 'mesh'}.{BESIDE.get(format, format)}"


class Allowed(NamedTuple):
    """The values of a setting: numbers from `least` to `most`, and those of `choices`."""

    text: str  # for the error message
    least: float = nan  # no number is allowed
    most: float = inf
    choices: tuple[object, ...] = ()


ALLOWED = {
    "format": Allowed(f"the formats are {', '.join((*FORMATS, *BESIDE))}", choices=(*FORMATS, *BESIDE)),
    "resolution": Allowed(f"it is 8 to {FINEST} cells a side", 8, FINEST),
    "min_piece": Allowed("it is a share of the largest piece, 0 to 1", 0, 1),
    "min_standing_piece": Allowed("it is a share of the largest piece, 0 to 1", 0, 1),
    "threshold": Allowed("it is auto, or a density above 0", ABOVE_ZERO, choices=("auto",)),
    "texture": Allowed("it is 0 (colours at the vertices), or 16 to 8192 texels", 16, 8192, (0,)),
    "roughness": Allowed("it is 0 (mirror) to 1 (chalk)", 0, 1),
    "faces": Allowed("it is 0 (all), or at least 100 triangles", 100, choices=(0,)),
    "levels": Allowed(
        "it is a list of falling numbers of triangles, at least 100 and below export.faces: [10000,3000]"
    ),
    "size": Allowed("it is null, or the longest side in metres, such as 0.1", ABOVE_ZERO, choices=(None,)),
    "blur": Allowed("it is 0 (none) to 0.5 scene units", 0, 0.5),
    "smoothing": Allowed("it is a number of rounds, 0 for none", 0),
    "denoise": Allowed("it is 0 (none), or 0.001 to 0.5 scene units", 0.001, 0.5, (0,)),
    "up": Allowed("it is y or z", choices=("y", "z")),
    "color_depth": Allowed("it is 0 (at the surface) to 0.5 scene units", 0, 0.5),
    "density": Allowed("it is above 0 kg/m^3, such as 1000", ABOVE_ZERO),
    "concavity": Allowed("it is 0.01 (many convex parts) to 1 (one convex hull)", 0.01, 1),
    "chunk": Allowed("it must be at least 1, a whole number", 1),
}


@dataclass(frozen=True)
class ExportSettings:
    """The settings of conf/export/, whose files explain them.

    Raises:
        UserError: a setting has a value that is not allowed; names the value and the allowed ones.
    """

    format: str
    resolution: int
    threshold: float | str
    visual_hull: bool
    fill_hidden: bool
    min_piece: float
    min_standing_piece: float
    blur: float
    smoothing: int
    denoise: float
    faces: int
    levels: Sequence[int]
    quads: bool
    texture: int
    lit: bool
    color_depth: float
    roughness: float
    double_sided: bool
    size: float | None
    up: str
    density: float
    concavity: float
    chunk: int

    def __post_init__(self) -> None:
        for name, allowed in ALLOWED.items():
            value = getattr(self, name)
            in_range = isinstance(value, int | float) and allowed.least <= value <= allowed.most and value < inf
            if name == "levels":
                in_range = self._falling(value)
            if not in_range and value not in allowed.choices:
                raise UserError(f"export.{name} is {value}; {allowed.text}")

        if self.quads and self.format != "obj":
            raise UserError(
                f"export.quads is true with export={self.format}, which has triangles only; type export=obj "
                "export.quads=true"
            )

    def _falling(self, levels: object) -> bool:
        if not isinstance(levels, Sequence) or not all(isinstance(n, int) and n >= 100 for n in levels):
            return False
        return all(n < before for before, n in pairwise([self.faces or inf, *levels]))

    @classmethod
    def of(cls, export: DictConfig) -> Self:
        """The settings of a composed configuration; checked before a run trains."""
        return cls(**{field.name: export[field.name] for field in fields(cls)})
