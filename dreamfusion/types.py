"""Data types that are passed between the stages, in the order of the flow; they check shapes at run time.

Letters in the whole project: B views, H x W pixels, R = B*H*W rays (by view, row, column), S packed samples of all rays
(ascending in ray), K texts of L tokens and width D, V vertices, F faces.
Units: scene units (the bounding radius is a setting), degrees, colours in [0, 1].
Axes: x right, y up, z towards the front camera; a camera looks along its own -z. Azimuth 0 is the view from +z (front),
90 the view from +x.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor


def check_shape(name: str, actual: Sequence[int], expected: Sequence[int | None]) -> None:
    """Raises: ValueError: the shape of `name` is not `expected`, in which None allows any size."""
    if len(actual) != len(expected) or any(e not in (None, a) for a, e in zip(actual, expected, strict=True)):
        wanted = str(tuple(expected)).replace("None", "any")
        raise ValueError(f"{name} has shape {tuple(actual)}, expected {wanted}")


def check_shapes(owner: object, **expected: Sequence[int | None]) -> None:
    """Raises: ValueError: a field of `owner` that is not None does not have the `expected` shape."""
    for name, shape in expected.items():
        value = getattr(owner, name)
        if value is not None:
            check_shape(f"{type(owner).__name__}.{name}", value.shape, shape)


class Movable:
    """`.to(device)` for frozen dataclasses of tensors; Lightning moves batches with `.to`."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        return self.with_each(lambda part: part.to(device, non_blocking=non_blocking))

    def rows(self, index: slice) -> Self:
        """These elements of the batch, where the first axis of every tensor is the batch."""
        return self.with_each(lambda part: part[index] if isinstance(part, Tensor) else part.rows(index))

    def with_each(self, change: Callable[[Any], Any]) -> Self:
        """The same with `change` applied to each tensor and each `Movable` in it."""
        parts = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        changed = {name: change(part) for name, part in parts.items() if isinstance(part, Tensor | Movable)}
        return replace(self, **changed)  # type: ignore[type-var]


@dataclass(frozen=True, eq=False)
class Cameras(Movable):
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
        b = len(self)
        check_shapes(self, camera_to_world=(None, 3, 4), light=(b, 3))
        check_shapes(self, fov=(b,), azimuth=(b,), elevation=(b,), distance=(b,))

    def __len__(self) -> int:
        return self.camera_to_world.shape[0]

    def resized(self, height: int, width: int) -> Self:
        """The same cameras with another image size."""
        return replace(self, height=height, width=width)

    def one(self, index: int) -> Self:
        """Camera `index` as a batch of one."""
        return self.rows(slice(index, index + 1))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """See `Movable.to`; to another device as one copy of pinned memory, which does not wait for the device."""
        device = torch.device(device)
        if device.type == "cpu" or self.fov.device.type != "cpu":
            return super().to(device, non_blocking)
        parts = [getattr(self, f.name) for f in fields(self) if f.type is Tensor]
        packed = torch.cat([part.reshape(-1) for part in parts])
        if torch.cuda.is_available() and device.type == "cuda":
            packed = packed.pin_memory()
        # Without pinned memory the copy has to be over before the memory is freed; so it is on CUDA in any case.
        moved = iter(packed.to(device, non_blocking=device.type == "cuda").split([part.numel() for part in parts]))
        return self.with_each(lambda part: next(moved).view(part.shape))


@dataclass(frozen=True, eq=False)
class RayBundle(Movable):
    """R rays with unit directions."""

    origins: Tensor  # (R, 3)
    directions: Tensor  # (R, 3), unit length

    def __post_init__(self) -> None:
        check_shapes(self, origins=(None, 3), directions=(len(self), 3))

    def __len__(self) -> int:
        return self.origins.shape[0]


@dataclass(frozen=True, eq=False)
class RaySamples(Movable):
    """S intervals along R rays, packed: the samples of ray r are `offsets[r]:offsets[r + 1]`, near to far."""

    ray: Tensor  # (S,) int64, ascending
    offsets: Tensor  # (R + 1,) int64, offsets[0] = 0, offsets[R] = S
    t_start: Tensor  # (S,)
    t_end: Tensor  # (S,)
    positions: Tensor  # (S, 3) the middles of the intervals

    def __post_init__(self) -> None:
        s = len(self)
        check_shapes(self, ray=(None,), offsets=(None,), t_start=(s,), t_end=(s,), positions=(s, 3))

    def __len__(self) -> int:
        return self.ray.shape[0]


@dataclass(frozen=True, eq=False)
class FieldOutput(Movable):
    """Field values at S points."""

    density: Tensor  # (S,) per scene unit, >= 0
    albedo: Tensor  # (S, 3)
    normal: Tensor | None  # (S, 3) unit, outward (minus the density gradient); None if not requested

    def __post_init__(self) -> None:
        s = self.density.shape[0]
        check_shapes(self, density=(None,), albedo=(s, 3), normal=(s, 3))


@dataclass(frozen=True, eq=False)
class RenderOutput(Movable):
    """B images of a scene; scene types add fields for their own regularisers."""

    rgb: Tensor  # (B, 3, H, W) composited over the background
    background: Tensor  # (B, 3) mean background colour over all pixels
    opacity: Tensor  # (B, 1, H, W)
    depth: Tensor  # (B, 1, H, W) expected distance along the ray, 0 on empty rays
    normal: Tensor | None  # (B, 3, H, W) weighted mean, not normalised

    def __post_init__(self) -> None:
        b, _, h, w = self.rgb.shape
        one, three = (b, 1, h, w), (b, 3, h, w)
        check_shapes(self, rgb=three, background=(b, 3), opacity=one, depth=one, normal=three)


@dataclass(frozen=True, eq=False)
class TextEmbedding(Movable):
    """K encoded texts."""

    states: Tensor  # (K, L, D)
    mask: Tensor  # (K, L) bool, False at padding
    pooled: Tensor | None = None  # (K, P) one vector a text, for networks that need it (SDXL, SD3)
    scene: int | None = None  # the prior's number of what all K texts show that show something; None: unknown

    def __post_init__(self) -> None:
        check_shapes(self, states=(None, None, None), mask=self.states.shape[:2], pooled=(len(self), None))

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, index: Tensor) -> Self:
        """The texts at `index` (B,) int64."""
        pooled = None if self.pooled is None else self.pooled[index]
        return type(self)(self.states[index], self.mask[index], pooled, self.scene)

    def blend(self, shares: Tensor) -> Self:
        """B weighted sums of the K texts, with shares (B, K); tokens of any text with a share count as given."""
        states = torch.einsum("bk,kld->bld", shares, self.states)
        mask = ((shares != 0).float() @ self.mask.float()) > 0
        return type(self)(states, mask, None if self.pooled is None else shares @ self.pooled, self.scene)


@dataclass(frozen=True, eq=False)
class Opposed(Movable):
    """N further texts of each of B views, from which perp-neg guides away."""

    texts: TextEmbedding  # N * B texts: the first of all views, then the second
    weights: Tensor  # (N, B), 0 or negative

    def __post_init__(self) -> None:
        check_shapes(self, weights=(None, None))
        check_shape("Opposed.texts", (len(self.texts),), (self.weights.numel(),))


@dataclass(frozen=True, eq=False)
class Conditioning(Movable):
    """Condition of a prior on B views: text, camera and appearance."""

    text: TextEmbedding  # B texts
    negative: TextEmbedding  # B texts: the empty text, or the negative prompt
    cameras: Cameras
    empty: TextEmbedding | None = None  # B times the empty text; None: `negative` is the empty text
    appearance: Tensor | None = None  # (B, 2) in [-1, 1]: grey level of the background, and `Shading.code`.
    # None: unknown
    opposed: Opposed | None = None  # texts for perp-neg

    def __post_init__(self) -> None:
        check_shapes(self, appearance=(len(self.text), 2))


@dataclass(frozen=True, eq=False)
class Branch(Movable):
    """Condition of one prediction for B images, such as the unconditional branch."""

    text: TextEmbedding  # B texts
    cameras: Cameras | None = None  # None: unknown to the network
    appearance: Tensor | None = None  # (B, 2), as in `Conditioning`
    unconditional: bool = False  # of guidance: a network that was trained without cameras at times gets none here


@dataclass(frozen=True, eq=False)
class GuidanceOutput(Movable):
    """Result of a distillation step on B images.

    `loss` is a surrogate: its gradient with respect to the image is the published one (Poole et al. 2022, Eq. 3), but
    its value is meaningless and is not reported.
    """

    loss: Tensor  # ()
    gradient_norm: Tensor  # (B,) of dL/dimage in the prior's space
    timestep: Tensor  # (B,) int64
    noise_level: Tensor  # (B,) sigma_t
    denoised: Tensor  # (B, C, h, w) denoised estimate in the prior's space, for previews
    latents: Tensor  # (B, C, h, w) the images there, detached
    losses: Mapping[str, Tensor] = field(default_factory=dict)  # () each, of the method's own parameters, by name
    figures: Mapping[str, Tensor | float] = field(default_factory=dict)  # () each, statistics to log, by name

    def __post_init__(self) -> None:
        b = self.timestep.shape[0]
        check_shapes(self, loss=(), gradient_norm=(b,), noise_level=(b,))


@dataclass(frozen=True, eq=False)
class Gaussians(Movable):
    """N anisotropic 3D Gaussians."""

    means: Tensor  # (N, 3) scene units
    scales: Tensor  # (N, 3) standard deviations along the axes, scene units
    rotations: Tensor  # (N, 4) quaternions w, x, y, z, not normalised
    opacities: Tensor  # (N,) in [0, 1]
    colors: Tensor  # (N, 3) in [0, 1], the means over all directions
    directional: Tensor | None = None  # (N, 3, 3) by channel: vectors whose product with the unit direction from the
    # camera is added to the colour, at most min(colour, 1 - colour) long; None: the colour is the same from all sides

    def __post_init__(self) -> None:
        n = len(self.opacities)
        check_shapes(self, means=(n, 3), scales=(n, 3), rotations=(n, 4), opacities=(None,), colors=(n, 3))
        check_shapes(self, directional=(n, 3, 3))


@dataclass(frozen=True, eq=False)
class Mesh:
    """A triangle mesh in scene units, faces counter-clockwise seen from outside."""

    vertices: np.ndarray  # (V, 3) float32
    faces: np.ndarray  # (F, 3) int64
    normals: np.ndarray | None = None  # (V, 3) float32, unit
    colors: np.ndarray | None = None  # (V, 3) float32 in [0, 1]
    uv: np.ndarray | None = None  # (V, 2) float32 in [0, 1], (0, 0) is the lower left corner of the texture
    texture: np.ndarray | None = None  # (h, w, 3) uint8 display colours, first row at the top (v = 1)
    quads: bool = False  # faces 2k and 2k + 1 are the halves (a, b, c) and (a, c, d) of a quadrilateral

    def __post_init__(self) -> None:
        v = len(self.vertices)
        check_shapes(self, vertices=(None, 3), faces=(None, 3), normals=(v, 3), colors=(v, 3), uv=(v, 2))
        check_shapes(self, texture=(None, None, 3))
