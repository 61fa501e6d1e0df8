"""Training batches for the pocket prior: stored renders, sampled, lit, recoloured and composited.

A batch is a pure function of (seed, step): a resumed training gets the same images as an uninterrupted one.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import IterableDataset

from dreamfusion.camera.orbit import spherical
from dreamfusion.pocket.data.captions import caption, recolor, view_words
from dreamfusion.pocket.data.names import select_models, subject_names
from dreamfusion.pocket.data.renders import RenderSet, halved
from dreamfusion.pocket.model.denoiser import camera_features, with_appearance
from dreamfusion.pocket.model.words import COLORS
from dreamfusion.types import Movable

LIBRARY_NAME = 0.25  # share of captions with the library's name instead of the learned one
VARIANT_DECAY = 0.7  # sampling weight of each further model under one name, relative to the one before


@dataclass(frozen=True)
class Appearance:
    """How often each appearance is sampled: shares in [0, 1]. Backgrounds that are not white are of any grey level."""

    recolored: float = 0.2
    textureless: float = 0.08
    lambertian: float = 0.35
    white_background: float = 0.35


@dataclass(frozen=True, eq=False)
class Batch(Movable):
    """B training pairs."""

    images: Tensor  # (B, 3, r, r) in [-1, 1]
    captions: list[str]
    camera: Tensor  # (B, 12), the appearance in the last two places
    proxy_targets: Tensor  # (B, 7, r, r): albedo times opacity and opacity, in [0, 1]; unit normals times opacity
    proxy_captions: list[str]  # of the proxy targets, which are never textureless
    subject: Tensor  # (G,) index in `RenderBatches.subjects` of each model; its B / G images are consecutive


class RenderBatches(IterableDataset[Batch]):
    """Endless training batches from `start_step` on; the last `held_out` views of each model are for validation.

    `names` maps the library names to learn to plain names ("sitting cat" to "cat"); None learns all models. A number
    after a library name selects one of several models of that name (see `subject_names`). Images are composed on the
    CPU, or on another device after `to`.
    """

    def __init__(
        self,
        renders: RenderSet,
        batch_size: int,
        seed: int,
        names: dict[str, str] | None = None,
        rarity: float = 0.6,
        held_out: int = 4,
        appearance: Appearance | None = None,
        emphasis: dict[str, float] | None = None,
        cameras_each: int = 1,
        size: int | None = None,
    ) -> None:
        """`size`: pixels a side of the images, the renders' or half of that; None is the renders'."""
        if batch_size % cameras_each:
            raise ValueError(f"batch_size={batch_size} is not a multiple of cameras_each={cameras_each}")
        self.size = size or renders.resolution
        if renders.resolution not in (self.size, 2 * self.size):
            raise ValueError(f"images of {size} pixels cannot be made from renders of {renders.resolution}")
        self.cameras_each = cameras_each
        self.renders, self.batch_size, self.seed, self.held_out = renders, batch_size, seed, held_out
        self.appearance = appearance or Appearance()
        self.start_step = 0
        subjects = subject_names(renders.items)
        self.names_by_model = select_models(renders.items, names)
        self.models = np.array(list(self.names_by_model))
        self._place = {model: place for place, model in enumerate(self.names_by_model)}
        self._images = tuple(map(torch.from_numpy, (renders.albedo, renders.alpha, renders.normal)))
        self.subjects = {subjects[i]: name for i, name in self.names_by_model.items()}
        self.names = sorted(set(self.names_by_model.values()))
        counts = Counter(self.names_by_model.values())
        # A name's share is count^(1 - rarity) times its emphasis, so that names with many models do not dominate.
        shares = {name: count ** (1 - rarity) * (emphasis or {}).get(name, 1.0) for name, count in counts.items()}
        rank: Counter[str] = Counter()
        weight = []
        for name in self.names_by_model.values():
            total = sum(VARIANT_DECAY**r for r in range(counts[name]))
            weight.append(shares[name] * VARIANT_DECAY ** rank[name] / total)
            rank[name] += 1
        self.probability = np.array(weight) / np.sum(weight)

    def to(self, device: torch.device | str) -> Self:
        """Hold all renders in the memory of `device`, 7 bytes a pixel, and compose there; returns self."""
        self._images = tuple(images.to(device) for images in self._images)
        return self

    def learned_names(self) -> dict[str, str]:
        """Every noun used in captions -> the name it is learned under."""
        library = {self.renders.items[model].name: name for model, name in self.names_by_model.items()}
        return {**library, **{name: name for name in self.names}}

    def __iter__(self) -> Iterator[Batch]:
        return map(self.draw, count(self.start_step))

    def draw(self, step: int) -> Batch:
        """The training batch of a step."""
        rng = np.random.default_rng((self.seed, step))
        models = rng.choice(self.models, self.batch_size // self.cameras_each, p=self.probability)
        models = models.repeat(self.cameras_each)
        views = rng.integers(0, self.renders.views - self.held_out, self.batch_size)
        return self._compose(rng, models, views, self.cameras_each)

    def validation(self, size: int) -> Batch:
        """A batch of `size` held-out views that depends on renders, names and seed alone."""
        rng = np.random.default_rng((self.seed, 2**40))
        models = rng.choice(self.models, size, p=self.probability)
        views = rng.integers(self.renders.views - self.held_out, self.renders.views, size)
        return self._compose(rng, models, views, 1)

    def picture(self, rng: np.random.Generator, model: int, view: int, color: str | None = None) -> np.ndarray:
        """One render (r, r, 3) in [0, 1] with light and background sampled as in training, recoloured to `color`.

        Never textureless.
        """
        models, views = np.array([model]), np.array([view])
        albedo, alpha, normal = self._unlit(models, views, [color])
        if rng.random() < self.appearance.lambertian:
            albedo = albedo * self._lambertian(rng, normal, models, views)
        grey = float(self._backgrounds(rng, 1)[0])
        return np.asarray((albedo * alpha + grey * (1 - alpha))[0].cpu().numpy(), dtype=np.float32)

    def _compose(self, rng: np.random.Generator, models: np.ndarray, views: np.ndarray, cameras_each: int) -> Batch:
        azimuth, elevation, distance = (
            angles[models, views] for angles in (self.renders.azimuth, self.renders.elevation, self.renders.distance)
        )
        colors, nouns = self._words(rng, models[::cameras_each])
        colors = [color for color in colors for _ in range(cameras_each)]
        nouns = [noun for noun in nouns for _ in range(cameras_each)]
        albedo, alpha, normal = self._unlit(models, views, colors)
        kinds, greys = self._lights(rng, len(models)), self._backgrounds(rng, len(models))
        targets, image = torch.cat([albedo * alpha, alpha, normal * alpha], dim=3), albedo
        if kinds.any():
            kind, grey = (torch.from_numpy(v).to(albedo)[:, None, None, None] for v in (kinds, greys))
            shade = self._lambertian(rng, normal, models, views)
            image = torch.where(kind < 0, shade, torch.where(kind > 0, albedo * shade, albedo))
        grey = torch.from_numpy(greys).to(albedo)[:, None, None, None]
        image = image * alpha + grey * (1 - alpha)
        sides = [view_words(float(az), float(el)) for az, el in zip(azimuth, elevation, strict=True)]
        told = list(zip(nouns, colors, sides, kinds, strict=True))
        target_captions = [caption(rng, noun, color, side) for noun, color, side, _ in told]
        captions = [caption(rng, noun, color if kind >= 0 else None, side) for noun, color, side, kind in told]
        camera = camera_features(*(torch.from_numpy(a.astype(np.float32)) for a in (azimuth, elevation, distance)))
        appearance = torch.from_numpy(np.stack([greys * 2 - 1, kinds], axis=1))
        subject = torch.tensor([self._place[int(m)] for m in models[::cameras_each]])
        device, pixels = albedo.device, (image * 2 - 1, targets)
        images, proxy_targets = (p.permute(0, 3, 1, 2).contiguous() for p in pixels)  # (B, C, r, r)
        camera = with_appearance(camera, appearance).to(device)
        return Batch(images, captions, camera, proxy_targets, target_captions, subject.to(device))

    def _words(self, rng: np.random.Generator, models: np.ndarray) -> tuple[list[str | None], list[str]]:
        """Sample a colour, or none, and one of its names for each model."""
        recolored, library = rng.random((2, len(models))) < [[self.appearance.recolored], [LIBRARY_NAME]]
        drawn = rng.choice(list(COLORS), len(models))
        colors = [str(color) if yes else None for color, yes in zip(drawn, recolored, strict=True)]
        items, names = self.renders.items, self.names_by_model
        nouns = [items[m].name if yes else names[int(m)] for m, yes in zip(models, library, strict=True)]
        return colors, nouns

    def _unlit(
        self, models: np.ndarray, views: np.ndarray, colors: Sequence[str | None]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Stored renders: albedo (B, r, r, 3), recoloured, and opacity (B, r, r, 1) in [0, 1]; normals (B, r, r, 3)."""
        device = self._images[0].device
        at = torch.from_numpy(models).to(device), torch.from_numpy(views).to(device)
        albedo, alpha, normal = (images[at].float() for images in self._images)
        albedo, alpha, normal = albedo / 255, alpha[..., None] / 255, normal / 127.5 - 1
        if self.renders.resolution > self.size:
            albedo, alpha, normal = halved(albedo, alpha, normal)
        if any(colors):
            wanted = torch.tensor([COLORS.get(color or "", (0.0, 0.0, 0.0)) for color in colors], device=device)
            known = torch.tensor([color is not None for color in colors], device=device)
            albedo = torch.where(known[:, None, None, None], recolor(albedo, alpha, wanted), albedo)
        return albedo, alpha, normal

    def _lights(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Sample kinds of light (count,): -1 textureless, 1 Lambertian, 0 albedo alone."""
        drawn, textureless = rng.random(count), self.appearance.textureless
        lit = (drawn < textureless + self.appearance.lambertian).astype(np.float32)
        return np.where(drawn < textureless, np.float32(-1), lit)

    def _backgrounds(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Sample grey levels (count,) in [0, 1]."""
        white, grey = rng.random((2, count))
        return np.where(white < self.appearance.white_background, 1.0, grey).astype(np.float32)

    def _lambertian(self, rng: np.random.Generator, normal: Tensor, models: np.ndarray, views: np.ndarray) -> Tensor:
        """`lambertian` with a random light around the camera of each view."""
        azimuth, elevation = (
            torch.from_numpy(angles[models, views].astype(np.float64))
            for angles in (self.renders.azimuth, self.renders.elevation)
        )
        camera = spherical(azimuth, elevation, torch.ones_like(azimuth))
        light = camera + torch.from_numpy(rng.normal(size=(len(models), 3)))
        ambient = torch.from_numpy(rng.uniform(0.1, 0.6, len(models)))
        return lambertian(normal, F.normalize(light, dim=1).to(normal), ambient.to(normal))


class MixedBatches(IterableDataset[Batch]):
    """Batches of `coarse`, from its `start_step` on; from step `begin` on every `every`-th is one of `fine` instead."""

    def __init__(self, coarse: RenderBatches, fine: RenderBatches, every: int, begin: int = 0) -> None:
        """Raises: ValueError: `every` is not positive, or the two learn different models."""
        if every < 1:
            raise ValueError(f"every={every}, it must be at least 1")
        if coarse.subjects != fine.subjects:
            raise ValueError("the fine renders show other models; render both from the same libraries")
        self.coarse, self.fine, self.every, self.begin = coarse, fine, every, begin

    def to(self, device: torch.device | str) -> Self:
        """See `RenderBatches.to`; renders that both use are copied once."""
        self.coarse.to(device)
        if self.fine.renders is self.coarse.renders:
            self.fine._images = self.coarse._images
        self.fine.to(device)
        return self

    def __iter__(self) -> Iterator[Batch]:
        return map(self.draw, count(self.coarse.start_step))

    def draw(self, step: int) -> Batch:
        """The training batch of a step."""
        fine = step >= self.begin and (step + 1) % self.every == 0
        return (self.fine if fine else self.coarse).draw(step)


def lambertian(normal: Tensor, light: Tensor, ambient: Tensor) -> Tensor:
    """Factor on the albedo (B, r, r, 1) by Eq. 7: unit normals (B, r, r, 3), unit vectors to the light (B, 3), (B,)."""
    diffuse = (normal * light[:, None, None]).sum(3, keepdim=True).clamp(min=0)
    ambient = ambient[:, None, None, None]
    return ambient + (1 - ambient) * diffuse
