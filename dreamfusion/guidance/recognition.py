"""Find the known model that a picture shows: the pocket prior's code whose proxy render is nearest to the picture.

Each model's code is decoded to its feature volume, which is rendered from a few sides, first all models from sides 45
degrees apart, then the best ones from sides between them. Pictures and renders are compared after the object is moved
to the middle and to one size, so neither its place nor its size in the picture matters.
Letters: M models, B images, n pixels a side of the compared images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

from dreamfusion.pocket.model.denoiser import camera_features
from dreamfusion.pocket.model.words import with_article

SIDE = 32  # n
AROUND, STEPS = 8, (22.5, 11.25)  # sides of the first search; later steps between sides, degrees
HEIGHT, HEIGHTS = 15.0, (-10.0, 0.0, 15.0, 30.0, 50.0)  # degrees, elevation of the first search, and of the second
DISTANCE = 3.0  # scene units, the middle of the training data
BEST = 8  # models of the later searches
BATCH = 16  # models decoded at once


@dataclass(frozen=True)
class Recognised:
    """The model that a picture shows, and how."""

    prompt: str  # the model's name with its article
    variant: int  # index among the models with this name
    variants: int  # number of models with this name
    azimuth: float  # degrees
    elevation: float  # degrees
    box: tuple[float, float, float, float]  # left, top, right, bottom of the model's picture, shares of its sides
    overlap: float  # silhouette IoU of the picture and the model's, 0 to 1
    difference: float  # root mean square of the colours' difference inside both, 0 to 1


@runtime_checkable
class Recognizer(Protocol):
    """A prior that can name what a picture shows."""

    def recognise(self, picture: Tensor, azimuth: float | None, elevation: float | None) -> Recognised:
        """The nearest known model.

        Args:
            picture: (4, S, S) in [0, 1], colours and opacity, not premultiplied.
            azimuth, elevation: of the picture's camera, degrees; None: unknown.

        Raises:
            GuidanceError: the prior's weights have no codes.
        """
        ...


@torch.no_grad()
def nearest_model(
    volume: Any, sentences: Tensor, picture: Tensor, azimuth: float | None, elevation: float | None
) -> Recognised:
    """See `Recognizer.recognise`.

    Args:
        volume: the prior's `FeatureVolume`.
        sentences: (M, D), the sentence vector of each model's name, which its colours depend on.
        picture, azimuth, elevation: see `Recognizer.recognise`.
    """
    wanted = _centred(_premultiplied(picture[None]))[0]
    around = [360 / AROUND * side for side in range(AROUND)] if azimuth is None else [azimuth]
    poses = [(side, HEIGHT if elevation is None else elevation) for side in around]
    models = range(len(volume.names))
    errors = _errors(volume, sentences, wanted, models, [poses] * len(models))
    best = errors.min(dim=1)
    chosen = best.values.argsort()[:BEST].tolist()
    found = {model: poses[int(best.indices[model])] for model in chosen}
    heights = HEIGHTS if elevation is None else (elevation,)
    tries = {model: [(found[model][0], height) for height in heights] for model in chosen}
    error, found = _refined(volume, sentences, wanted, tries)
    for step in STEPS if azimuth is None else ():
        tries = {m: [((side + turn) % 360, height) for turn in (-step, 0, step)] for m, (side, height) in found.items()}
        error, found = _refined(volume, sentences, wanted, tries)
    model = min(error, key=lambda one: error[one])
    seen = _pictures(volume, sentences, [model], [[found[model]]])
    (left, top, right, bottom), shown = _boxes(seen)[0].tolist(), _centred(seen)[0]
    inside = [image[3] > 0.5 for image in (shown, wanted)]
    both = inside[0] & inside[1]
    own = volume.variants(volume.names[model])
    return Recognised(
        prompt=with_article(volume.names[model]),
        variant=own.index(model),
        variants=len(own),
        azimuth=found[model][0],
        elevation=found[model][1],
        box=(left, top, right, bottom),
        overlap=float(both.sum() / (inside[0] | inside[1]).sum().clamp(min=1)),
        difference=float((shown - wanted)[:3][:, both].square().mean().sqrt()) if both.any() else 1.0,
    )


Pose = tuple[float, float]  # azimuth and elevation, degrees


def _refined(
    volume: Any, sentences: Tensor, wanted: Tensor, tries: dict[int, list[Pose]]
) -> tuple[dict[int, float], dict[int, Pose]]:
    """The least error of each model over its poses, and the pose."""
    least = _errors(volume, sentences, wanted, list(tries), list(tries.values())).min(dim=1)
    error = dict(zip(tries, least.values.tolist(), strict=True))
    return error, {model: tries[model][int(best)] for model, best in zip(tries, least.indices, strict=True)}


def _errors(
    volume: Any, sentences: Tensor, wanted: Tensor, models: Sequence[int], poses: Sequence[Sequence[Pose]]
) -> Tensor:
    """Mean squared difference from `wanted` (4, n, n) of each of M models from each of its P poses: (M, P)."""
    found = []
    for start in range(0, len(models), BATCH):
        part = slice(start, start + BATCH)
        seen = _centred(_pictures(volume, sentences, models[part], poses[part]))
        found.append((seen - wanted).square().mean((1, 2, 3)).view(len(models[part]), -1))
    return torch.cat(found)


def _pictures(volume: Any, sentences: Tensor, models: Sequence[int], poses: Sequence[Sequence[Pose]]) -> Tensor:
    """Proxy renders (M P, 4, r, r), premultiplied."""
    index = torch.tensor(models, device=sentences.device)
    each = len(poses[0])
    angles = torch.tensor(poses, device=sentences.device).view(-1, 2)
    camera = camera_features(angles[:, 0], angles[:, 1], torch.full_like(angles[:, 0], DISTANCE))
    proxy = volume(volume.decode(index), sentences[index].repeat_interleave(each, dim=0), camera)
    rgba: Tensor = proxy.rgba.clamp(0, 1)
    return rgba


def _premultiplied(pictures: Tensor) -> Tensor:
    return torch.cat([pictures[:, :3] * pictures[:, 3:], pictures[:, 3:]], dim=1)


def _boxes(pictures: Tensor) -> Tensor:
    """Left, top, right and bottom of the opaque pixels of (B, 4, r, r), shares of the sides; all of an empty one."""
    solid = pictures[:, 3] > 0.5
    ends = []
    for axis in (1, 2):  # rows are left for columns, and columns for rows
        line = solid.any(dim=axis).float()
        ends += [line.argmax(dim=1), line.shape[1] - line.flip(1).argmax(dim=1)]
    return torch.stack(ends, dim=1)[:, [0, 2, 1, 3]] / pictures.shape[-1]


def _centred(pictures: Tensor) -> Tensor:
    """(B, 4, r, r) -> (B, 4, n, n): the middle of the object's box in the middle, its longer side the whole side."""
    left, top, right, bottom = _boxes(pictures).unbind(1)
    half = torch.maximum(right - left, bottom - top).clamp(min=1e-3) / 2
    middle = torch.stack([left + right, top + bottom], dim=1) - 1  # in [-1, 1]
    zero = torch.zeros_like(half)
    across, down = torch.stack([2 * half, zero, middle[:, 0]], 1), torch.stack([zero, 2 * half, middle[:, 1]], 1)
    grid = F.affine_grid(torch.stack([across, down], 1), [len(pictures), 4, SIDE, SIDE], align_corners=False)
    return F.grid_sample(pictures, grid, align_corners=False)
