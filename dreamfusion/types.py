"""Data types that are passed between the stages, in the order of the flow; they check shapes at run time.

Letters in the whole project: B views, H x W pixels, R = B*H*W rays (by view, row, column), S packed samples of all rays
(ascending in ray), K texts of L tokens and width D, V vertices, F faces.
Units: scene units (the bounding radius is a setting), degrees, colours in [0, 1].
Axes: x right, y up, z towards the front camera; a camera looks along its own -z. Azimuth 0 is the view from +z (front),
90 the view from +x.
"""

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor


def check_shape(owner: object, name: str, actual: tuple[int, ...], expected: tuple[int | None, ...]) -> None:
    """Raises: ValueError: the shape of a field is not `expected`, in which None allows any size."""
    fits = len(actual) == len(expected) and all(e is None or a == e for a, e in zip(actual, expected, strict=True))
    if not fits:
        wanted = ", ".join("any" if e is None else str(e) for e in expected)
        raise ValueError(f"{type(owner).__name__}.{name} has shape {tuple(actual)}, expected ({wanted})")


class _Movable:
    """`.to(device)` for frozen dataclasses of tensors; Lightning moves batches with `.to`."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        moved: dict[str, Any] = {}
        for f in fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                moved[f.name] = value.to(device, non_blocking=non_blocking)
            elif isinstance(value, _Movable):
                moved[f.name] = value.to(device, non_blocking)
        return replace(self, **moved)  # type: ignore[type-var]


@dataclass(frozen=True, eq=False)
class Cameras(_Movable):
    """B pinhole cameras of one image size, each with a point light."""

    camera_to_world: Tensor  # (B, 3, 4) columns: right, up, back, position
    fov: Tensor  # (B,) vertical field of view, degrees
    azimuth: Tensor  # (B,) degrees, 0 = front (+z), 90 = from +x
    elevation: Tensor  # (B,) degrees above the horizon
    distance: Tensor  # (B,) from the origin, scene units
    light: Tensor  # (B, 3) position of the point light
    height: int  # pixels
    width: int  # pixels

    def __post_init__(self) -> None:
        b = self.camera_to_world.shape[0]
        check_shape(self, "camera_to_world", self.camera_to_world.shape, (None, 3, 4))
        for name in ("fov", "azimuth", "elevation", "distance"):
            check_shape(self, name, getattr(self, name).shape, (b,))
        check_shape(self, "light", self.light.shape, (b, 3))

    def __len__(self) -> int:
        return self.camera_to_world.shape[0]

    def resized(self, height: int, width: int) -> Self:
        """The same cameras with another image size."""
        return replace(self, height=height, width=width)

    def one(self, index: int) -> Self:
        """Camera `index` as a batch of one."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}
        return replace(self, **{name: value[index : index + 1] for name, value in tensors.items()})


@dataclass(frozen=True, eq=False)
class RayBundle(_Movable):
    """R rays with unit directions."""

    origins: Tensor  # (R, 3)
    directions: Tensor  # (R, 3), unit length

    def __post_init__(self) -> None:
        check_shape(self, "origins", self.origins.shape, (None, 3))
        check_shape(self, "directions", self.directions.shape, (self.origins.shape[0], 3))

    def __len__(self) -> int:
        return self.origins.shape[0]


@dataclass(frozen=True, eq=False)
class RaySamples(_Movable):
    """S intervals along R rays, packed: the samples of ray r are `offsets[r]:offsets[r + 1]`, near to far."""

    ray: Tensor  # (S,) int64, ascending
    offsets: Tensor  # (R + 1,) int64, offsets[0] = 0, offsets[R] = S
    t_start: Tensor  # (S,)
    t_end: Tensor  # (S,)
    positions: Tensor  # (S, 3) the middles of the intervals

    def __post_init__(self) -> None:
        s = self.ray.shape[0]
        check_shape(self, "ray", self.ray.shape, (None,))
        check_shape(self, "offsets", self.offsets.shape, (None,))
        check_shape(self, "t_start", self.t_start.shape, (s,))
        check_shape(self, "t_end", self.t_end.shape, (s,))
        check_shape(self, "positions", self.positions.shape, (s, 3))

    def __len__(self) -> int:
        return self.ray.shape[0]


@dataclass(frozen=True, eq=False)
class FieldOutput(_Movable):
    """Field values at S points."""

    density: Tensor  # (S,) per scene unit, >= 0
    albedo: Tensor  # (S, 3)
    normal: Tensor | None  # (S, 3) unit, outward (minus the density gradient); None if not requested

    def __post_init__(self) -> None:
        s = self.density.shape[0]
        check_shape(self, "density", self.density.shape, (None,))
        check_shape(self, "albedo", self.albedo.shape, (s, 3))
        if self.normal is not None:
            check_shape(self, "normal", self.normal.shape, (s, 3))


@dataclass(frozen=True, eq=False)
class RenderOutput(_Movable):
    """B images of a scene; scene types add fields for their own regularisers."""

    rgb: Tensor  # (B, 3, H, W) composited over the background
    background: Tensor  # (B, 3) mean background colour over all pixels
    opacity: Tensor  # (B, 1, H, W)
    depth: Tensor  # (B, 1, H, W) expected distance along the ray, 0 on empty rays
    normal: Tensor | None  # (B, 3, H, W) weighted mean, not normalised

    def __post_init__(self) -> None:
        b, _, h, w = self.rgb.shape
        check_shape(self, "rgb", self.rgb.shape, (None, 3, None, None))
        check_shape(self, "background", self.background.shape, (b, 3))
        check_shape(self, "opacity", self.opacity.shape, (b, 1, h, w))
        check_shape(self, "depth", self.depth.shape, (b, 1, h, w))
        if self.normal is not None:
            check_shape(self, "normal", self.normal.shape, (b, 3, h, w))


@dataclass(frozen=True, eq=False)
class TextEmbedding(_Movable):
    """K encoded texts."""

    states: Tensor  # (K, L, D)
    mask: Tensor  # (K, L) bool, False at padding
    pooled: Tensor | None = None  # (K, P) one vector a text, for networks that need it (SDXL, SD3)

    def __post_init__(self) -> None:
        check_shape(self, "states", self.states.shape, (None, None, None))
        check_shape(self, "mask", self.mask.shape, tuple(self.states.shape[:2]))
        if self.pooled is not None:
            check_shape(self, "pooled", self.pooled.shape, (len(self.states), None))

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, index: Tensor) -> Self:
        """The texts at `index` (B,) int64."""
        pooled = None if self.pooled is None else self.pooled[index]
        return type(self)(self.states[index], self.mask[index], pooled)


@dataclass(frozen=True, eq=False)
class Conditioning(_Movable):
    """Condition of a prior on B views: text, camera and appearance."""

    text: TextEmbedding  # B texts
    negative: TextEmbedding  # B texts: the empty text, or the negative prompt
    cameras: Cameras
    appearance: Tensor | None = None  # (B, 2) in [-1, 1]: grey level of the background, and `Shading.code`.
    # None: unknown

    def __post_init__(self) -> None:
        if self.appearance is not None:
            check_shape(self, "appearance", self.appearance.shape, (len(self.text), 2))


@dataclass(frozen=True, eq=False)
class Branch(_Movable):
    """Condition of one prediction for B images, such as the unconditional branch."""

    text: TextEmbedding  # B texts
    cameras: Cameras | None = None  # None: unknown to the network
    appearance: Tensor | None = None  # (B, 2), as in `Conditioning`


@dataclass(frozen=True, eq=False)
class GuidanceOutput(_Movable):
    """Result of a distillation step on B images.

    `loss` is a surrogate: its gradient with respect to the image is the published one (Poole et al. 2022, Eq. 3), but
    its value is meaningless and is not reported.
    """

    loss: Tensor  # ()
    gradient_norm: Tensor  # (B,) of dL/dimage in the prior's space
    timestep: Tensor  # (B,) int64
    noise_level: Tensor  # (B,) sigma_t
    denoised: Tensor  # (B, C, h, w) denoised estimate in the prior's space, for previews

    def __post_init__(self) -> None:
        b = self.timestep.shape[0]
        check_shape(self, "loss", self.loss.shape, ())
        check_shape(self, "gradient_norm", self.gradient_norm.shape, (b,))
        check_shape(self, "noise_level", self.noise_level.shape, (b,))


@dataclass(frozen=True, eq=False)
class Mesh:
    """A triangle mesh in scene units, faces counter-clockwise seen from outside."""

    vertices: np.ndarray  # (V, 3) float32
    faces: np.ndarray  # (F, 3) int64
    normals: np.ndarray | None = None  # (V, 3) float32, unit
    colors: np.ndarray | None = None  # (V, 3) float32 in [0, 1]
    uv: np.ndarray | None = None  # (V, 2) float32 in [0, 1], (0, 0) is the lower left corner of the texture
    texture: np.ndarray | None = None  # (h, w, 3) uint8 display colours, first row at the top (v = 1)

    def __post_init__(self) -> None:
        check_shape(self, "vertices", self.vertices.shape, (None, 3))
        check_shape(self, "faces", self.faces.shape, (None, 3))
        if self.uv is not None:
            check_shape(self, "uv", self.uv.shape, (len(self.vertices), 2))
        if self.texture is not None:
            check_shape(self, "texture", self.texture.shape, (None, None, 3))
        for name in ("normals", "colors"):
            value = getattr(self, name)
            if value is not None:
                check_shape(self, name, value.shape, self.vertices.shape)
