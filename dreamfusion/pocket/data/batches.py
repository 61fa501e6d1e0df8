"""Training batches for the pocket prior: stored renders, sampled, lit, recoloured and composited.

A batch is a pure function of (seed, step): a resumed training gets the same images as an uninterrupted one.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from dreamfusion.camera.orbit import spherical
from dreamfusion.pocket.data.captions import caption, recolor, view_words
from dreamfusion.pocket.data.names import select_models, subject_names
from dreamfusion.pocket.data.renders import RenderSet
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
    after a library name selects one of several models of that name (see `subject_names`).
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
    ) -> None:
        if batch_size % cameras_each:
            raise ValueError(f"batch_size={batch_size} is not a multiple of cameras_each={cameras_each}")
        self.cameras_each = cameras_each
        self.renders, self.batch_size, self.seed, self.held_out = renders, batch_size, seed, held_out
        self.appearance = appearance or Appearance()
        self.start_step = 0
        subjects = subject_names(renders.items)
        self.names_by_model = select_models(renders.items, names)
        self.models = np.array(list(self.names_by_model))
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
        set_, (albedo, alpha) = self.renders, self._unlit(model, view, color)
        if rng.random() < self.appearance.lambertian:
            azimuth, elevation = float(set_.azimuth[model, view]), float(set_.elevation[model, view])
            albedo = albedo * _lambertian(rng, set_.normal[model, view], azimuth, elevation)
        return np.asarray(albedo * alpha + self._background(rng) * (1 - alpha), dtype=np.float32)

    def _compose(self, rng: np.random.Generator, models: np.ndarray, views: np.ndarray, cameras_each: int) -> Batch:
        set_ = self.renders
        images, captions, appearances, targets, target_captions = [], [], [], [], []
        azimuth, elevation, distance = (a[models, views] for a in (set_.azimuth, set_.elevation, set_.distance))
        color: str | None = None
        for i, (m, v, az, el) in enumerate(zip(models, views, azimuth, elevation, strict=True)):
            if i % cameras_each == 0:
                color = str(rng.choice(list(COLORS))) if rng.random() < self.appearance.recolored else None
                name = set_.items[m].name if rng.random() < LIBRARY_NAME else self.names_by_model[int(m)]
            albedo, alpha = self._unlit(m, v, color)
            kind, image = self._light(rng, albedo, set_.normal[m, v], float(az), float(el))
            grey = self._background(rng)
            images.append(image * alpha + grey * (1 - alpha))
            appearances.append((grey * 2 - 1, kind))
            normal = set_.normal[m, v].astype(np.float32) / 127.5 - 1
            targets.append(np.concatenate([albedo * alpha, alpha, normal * alpha], axis=2))
            target_captions.append(caption(rng, name, color, view_words(float(az), float(el))))
            captions.append(caption(rng, name, color if kind >= 0 else None, view_words(float(az), float(el))))
        stacked = (torch.from_numpy(np.stack(pictures)) for pictures in (images, targets))
        pixels, proxy_targets = (pictures.permute(0, 3, 1, 2).contiguous() for pictures in stacked)  # (B, C, r, r)
        camera = camera_features(*(torch.from_numpy(a.astype(np.float32)) for a in (azimuth, elevation, distance)))
        order = list(self.names_by_model)
        subject = torch.tensor([order.index(int(m)) for m in models[::cameras_each]])
        camera = with_appearance(camera, torch.tensor(appearances))
        return Batch(pixels * 2 - 1, captions, camera, proxy_targets, target_captions, subject)

    def _unlit(self, model: int, view: int, color: str | None) -> tuple[np.ndarray, np.ndarray]:
        """Albedo (r, r, 3), recoloured to `color`, and opacity (r, r, 1) of a stored render, in [0, 1]."""
        albedo = self.renders.albedo[model, view].astype(np.float32) / 255
        alpha = self.renders.alpha[model, view].astype(np.float32)[..., None] / 255
        return (albedo if color is None else recolor(albedo, alpha[..., 0], color)), alpha

    def _light(
        self, rng: np.random.Generator, albedo: np.ndarray, normal: np.ndarray, az: float, el: float
    ) -> tuple[float, np.ndarray]:
        """Sample a kind of light (see `with_appearance`); returns it and the pixels (r, r, 3) shaded by Eq. 7."""
        kind = rng.random()
        if kind >= self.appearance.textureless + self.appearance.lambertian:
            return 0.0, albedo
        shade = _lambertian(rng, normal, az, el)
        if kind < self.appearance.textureless:
            return -1.0, np.ones_like(albedo) * shade
        return 1.0, albedo * shade

    def _background(self, rng: np.random.Generator) -> float:
        """Sample a grey level in [0, 1]."""
        return 1.0 if rng.random() < self.appearance.white_background else float(rng.random())


class MixedBatches(IterableDataset[Batch]):
    """Batches of `coarse`, from its `start_step` on, and every `every`-th step one of `fine` renders instead."""

    def __init__(self, coarse: RenderBatches, fine: RenderBatches, every: int) -> None:
        """Raises: ValueError: `every` is not positive, or the two learn different models."""
        if every < 1:
            raise ValueError(f"every={every}, it must be at least 1")
        if coarse.subjects != fine.subjects:
            raise ValueError("the fine renders show other models; render both from the same libraries")
        self.coarse, self.fine, self.every = coarse, fine, every

    def __iter__(self) -> Iterator[Batch]:
        return map(self.draw, count(self.coarse.start_step))

    def draw(self, step: int) -> Batch:
        """The training batch of a step."""
        return (self.coarse if (step + 1) % self.every else self.fine).draw(step)


def _lambertian(rng: np.random.Generator, normal: np.ndarray, azimuth: float, elevation: float) -> np.ndarray:
    """Factor on the albedo (r, r, 1) by Eq. 7, for stored normals (r, r, 3) and a random light around the camera."""
    angles = torch.tensor([azimuth, elevation, 1.0], dtype=torch.float64)
    camera = spherical(*angles).numpy()
    light = camera + rng.normal(size=3)
    light = (light / np.linalg.norm(light)).astype(np.float32)
    diffuse = np.maximum((normal.astype(np.float32) / 127.5 - 1) @ light, 0)[..., None]
    ambient = rng.uniform(0.1, 0.6)
    return np.asarray(ambient + (1 - ambient) * diffuse)
