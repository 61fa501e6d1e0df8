"""The reference view: the scene must look like a picture from one camera, every n steps beside the distillation.

The terms are those of the field's systems that begin from a picture (Zero-1-to-3 in stable-dreamfusion, Magic123):
squared differences of colours and opacity, and for files of depth and normals 1 - correlation and 1 - cosine.
Letters: S pixels a side of the view.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dreamfusion.camera.orbit import Orbit, look_from, spherical
from dreamfusion.error import UserError, check_positive
from dreamfusion.reference.cutout import centred_box, cut_out, frame, object_box
from dreamfusion.reference.file import read_picture
from dreamfusion.scene.background.solid import ConstantBackground
from dreamfusion.scene.base import Scene
from dreamfusion.schedule import ScheduleLike, schedule
from dreamfusion.types import Cameras, RenderOutput

GREY = 0.5  # behind render and picture, so that neither black nor white parts of an object match an empty scene
AZIMUTH, ELEVATION = 0.0, 15.0  # degrees, where neither the settings nor the prior say how the picture was taken
TERMS = ("color", "mask", "depth", "normal")


@dataclass(frozen=True)
class Framing:
    """How a picture is read, and where its object is placed in the frame of the view."""

    image: str  # file
    depth: str | None  # file of the same size, brighter is farther
    normal: str | None  # file of the same size: x right, y up, z towards the camera, from [-1, 1] to the channels
    box: Sequence[float] | None  # left, top, right, bottom of the object, shares of the frame; None: see `fill`
    fill: float  # share of the frame that the object's longer side fills, in the middle of the frame

    def __post_init__(self) -> None:
        if not 0.1 <= self.fill <= 1:
            raise UserError(f"reference.fill is {self.fill}; allowed are 0.1 to 1, the share of the frame's side")
        if self.box is not None:
            left, top, right, bottom = self.box if len(self.box) == 4 else (0, 0, 0, 0)
            if right - left < 0.05 or bottom - top < 0.05 or min(self.box) < 0 or max(self.box) > 1:
                raise UserError(
                    f"reference.box is {list(self.box)}; type left, top, right, bottom as shares of the frame: "
                    "reference.box=[0.1,0.1,0.9,0.9]"
                )

    def read(self, size: int) -> list[np.ndarray | None]:
        """Picture, depth and normals, (S, S, 4) uint8 each, None without a file.

        Raises:
            UserError: a file is missing, not a picture, without an object, or of another size than the picture.
        """
        pixels = cut_out(read_picture(Path(self.image)), f"image={self.image}")
        box = object_box(pixels)
        target = centred_box(box, self.fill) if self.box is None else self.box
        found: list[np.ndarray | None] = [frame(pixels, box, target, size)]
        for name in ("depth", "normal"):
            file = getattr(self, name)
            extra = (
                None
                if file is None
                else read_picture(Path(file), f"reference.{name}", nearest=True, stretch=name == "depth")
            )
            if extra is not None and extra.shape != pixels.shape:
                raise UserError(f"reference.{name}={file} has another size than image={self.image}; both must be equal")
            found.append(None if extra is None else frame(extra, box, target, size, nearest=True))
        return found


class Reference(nn.Module):
    """Weighted differences of a scene's render from the picture, at the picture's camera."""

    rgb: Tensor  # (1, 3, S, S) in [0, 1]
    mask: Tensor  # (1, 1, S, S) opacity
    depth: Tensor | None  # (1, 1, S, S) in [0, 1], of unknown scale and offset
    normal: Tensor | None  # (1, 3, S, S) unit, camera axes
    shown: Tensor | None  # (1, 4, R, R) in [0, 1], colours and opacity for a prior that looks at the picture

    def __init__(
        self,
        azimuth: float | None,
        elevation: float | None,
        distance: float | None,
        fov: float | None,
        box: Sequence[float] | None,
        fill: float,
        size: int,
        every: int,
        depth: str | None,
        normal: str | None,
        weights: Mapping[str, ScheduleLike],
        image: str,
        orbit: Orbit,
        read: bool,
        shown: int | None = None,
    ) -> None:
        """Read the files, unless `read` is false: a resumed run has their pixels in its checkpoint.

        Args:
            azimuth, elevation: of the camera, degrees; None: AZIMUTH and ELEVATION.
            distance, fov: scene units, degrees; None: the middle of the training cameras' range.
            box, fill, depth, normal, image: see `Framing`.
            size: S.
            every: steps between two uses; 1: each step.
            weights: of TERMS, numbers or schedules; 0 disables a term.
            orbit: the training cameras.
            shown: R, pixels a side of the picture that the prior looks at; None: it looks at none.

        Raises:
            UserError: a setting is not allowed, or a file cannot be used.
        """
        super().__init__()
        check_positive("reference", size=size, every=every)
        self.every = every
        self.weights = {name: schedule(weight) for name, weight in weights.items()}
        for name, weight in self.weights.items():
            if name not in TERMS or weight.lowest < 0:
                raise UserError(
                    f"reference.weights.{name} is {weights[name]}; terms are {', '.join(TERMS)}, with weights of at "
                    "least 0"
                )
        self.camera = _camera(orbit, azimuth, elevation, distance, fov, size)
        self.background = ConstantBackground([GREY] * 3)
        framing = Framing(image, depth, normal, box, fill)
        files = framing.read(size) if read else [None] * 3
        empty = np.zeros((size, size, 4), np.uint8)
        given = [True, depth is not None, normal is not None]
        picture, far, bent = (
            torch.from_numpy((empty if file is None else file).copy()).permute(2, 0, 1)[None] / 255 if has else None
            for file, has in zip(files, given, strict=True)
        )
        assert picture is not None
        self.register_buffer("rgb", picture[:, :3])
        self.register_buffer("mask", picture[:, 3:])
        self.register_buffer("depth", None if far is None else far[:, :1])
        normals = None if bent is None else nn.functional.normalize(2 * bent[:, :3] - 1, dim=1)
        self.register_buffer("normal", normals)
        large = None
        if shown is not None:
            whole = framing.read(shown)[0] if read else np.zeros((shown, shown, 4), np.uint8)
            large = torch.from_numpy(np.array(whole)).permute(2, 0, 1)[None] / 255
        self.register_buffer("shown", large)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        """Checkpoints of before 2026-12-01 have no `shown`: the prior looked at the picture in the view's size."""
        name = f"{prefix}shown"
        if self.shown is not None and name not in state_dict:
            pixels = torch.cat([state_dict[f"{prefix}rgb"], state_dict[f"{prefix}mask"]], dim=1)
            state_dict[name] = nn.functional.interpolate(pixels, self.shown.shape[-2:], mode="bilinear")
        super()._load_from_state_dict(state_dict, prefix, *others)

    def due(self, step: int) -> bool:
        """Whether the view is used at `step`."""
        return step % self.every == 0

    def forward(self, scene: Scene, progress: float) -> dict[str, Tensor]:
        """Weighted value of each active term by name, such as reference_color; nothing of it is random."""
        values = {"color": self._color, "mask": self._mask}
        values |= {} if self.depth is None else {"depth": self._depth}
        values |= {} if self.normal is None else {"normal": self._normal}
        active = {name: self.weights[name](progress) for name in values if name in self.weights}
        active = {name: weight for name, weight in active.items() if weight > 0}
        if not active:
            return {}
        camera = self.camera.to(self.rgb.device)
        render = scene.render(camera, with_normal="normal" in active, background=self.background)
        return {f"reference_{name}": weight * values[name](render) for name, weight in active.items()}

    def picture(self) -> np.ndarray:
        """The framed picture (S, S, 4) uint8."""
        pixels = torch.cat([self.rgb, self.mask], dim=1)[0].permute(1, 2, 0)
        return np.rint(pixels.cpu().numpy() * 255).astype(np.uint8)

    def over(self, grey: float) -> Tensor:
        """The picture over a grey level, (1, 3, S, S)."""
        return self.rgb * self.mask + grey * (1 - self.mask)

    def for_prior(self) -> Tensor:
        """The picture over white for a prior that looks at it, (1, 3, R, R)."""
        if self.shown is None:
            return self.over(1.0)
        return self.shown[:, :3] * self.shown[:, 3:] + 1 - self.shown[:, 3:]

    def _color(self, render: RenderOutput) -> Tensor:
        """Mean squared difference of the colours, both over GREY."""
        return (render.rgb - self.over(GREY)).square().mean()

    def _mask(self, render: RenderOutput) -> Tensor:
        """Mean squared difference of the opacity."""
        return (render.opacity - self.mask).square().mean()

    def _depth(self, render: RenderOutput) -> Tensor:
        """1 - Pearson's correlation of the depths where the picture is opaque: scale and offset are unknown."""
        assert self.depth is not None
        inside = self.mask > 0.5
        one, other = (depth[inside] - depth[inside].mean() for depth in (render.depth, self.depth))
        # The bound keeps the ratio finite where a depth is constant.
        return 1 - (one * other).sum() / (one.norm() * other.norm()).clamp(min=1e-6)

    def _normal(self, render: RenderOutput) -> Tensor:
        """Mean of 1 - cosine of the normals where the picture is opaque."""
        assert self.normal is not None and render.normal is not None
        axes = self.camera.camera_to_world[0, :, :3].to(render.normal)
        seen = nn.functional.normalize(torch.einsum("ij,bihw->bjhw", axes, render.normal), dim=1)
        inside = (self.mask > 0.5).float()
        return ((1 - (seen * self.normal).sum(1, keepdim=True)) * inside).sum() / inside.sum().clamp(min=1)


def _camera(
    orbit: Orbit, azimuth: float | None, elevation: float | None, distance: float | None, fov: float | None, size: int
) -> Cameras:
    """The camera of the picture, (1).

    Raises:
        UserError: a setting is not allowed.
    """
    above = ELEVATION if elevation is None else elevation
    if not -90 <= above <= 90:
        raise UserError(f"reference.elevation is {above}; allowed are -90 to 90 degrees")
    middle = orbit.view(torch.tensor([AZIMUTH if azimuth is None else azimuth]), above, size, size)
    if distance is None and fov is None:
        return middle
    away = middle.distance if distance is None else torch.tensor([float(distance)])
    wide = middle.fov if fov is None else torch.tensor([float(fov)])
    if away <= 0 or not 0 < wide < 180:
        raise UserError(
            f"reference.distance is {float(away)} and reference.fov {float(wide)}; a distance must be above 0, a field "
            "of view between 0 and 180 degrees"
        )
    position = spherical(middle.azimuth, middle.elevation, away)
    up = torch.tensor([[0.0, 1.0, 0.0]])
    return look_from(position, torch.zeros_like(position), up, wide, middle.light, size, size)
