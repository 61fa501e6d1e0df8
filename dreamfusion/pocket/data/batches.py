"""Training images for the pocket prior: stored renders, lit, recoloured and composited anew each time they are drawn.

The drawing is a pure function of (seed, step): an interrupted training goes on with the very images it would have seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from dreamfusion.camera.orbit import spherical
from dreamfusion.pocket.data.captions import COLORS, caption, recolor, view_words
from dreamfusion.pocket.data.names import select_models, subject_names
from dreamfusion.pocket.data.renders import RenderSet
from dreamfusion.pocket.model.denoiser import camera_features, with_look

OWN_NAME = 0.25
FURTHER = 0.7  # of the models under one name, each is drawn this much as often as the one before


@dataclass(frozen=True)
class Look:
    """How often which appearance is drawn; shares in [0, 1]."""

    recolored: float = 0.2
    textureless: float = 0.08
    lambertian: float = 0.35
    white_background: float = 0.35
    # the other backgrounds are grey of any level


@dataclass(frozen=True, eq=False)
class Batch:
    """B training pairs."""

    images: Tensor  # (B, 3, r, r) in [-1, 1]
    captions: list[str]
    camera: Tensor  # (B, 12) with the look in its last two places
    drawings: Tensor  # (B, 7, r, r): albedo times opacity, opacity, in [0, 1], and unit normals times opacity
    subjects: list[str]  # captions (B) of what is drawn
    subject: Tensor  # (G,) index in `RenderBatches.subjects` of each model; its B / G images follow one another

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        tensors = {name: getattr(self, name).to(device) for name in ("images", "camera", "drawings", "subject")}
        return replace(self, **tensors)


class RenderBatches(IterableDataset[Batch]):
    """Endless batches of renders from `start_step` on; the last `held_out` views of each model are never drawn.

    `names` says which library names to learn, and under which plain name ("sitting cat" as "cat"); None is all. A
    number behind a library name picks one of several models of that name (see `subject_names`).
    A share `OWN_NAME` of the captions keeps the library's name.
    """

    def __init__(
        self,
        renders: RenderSet,
        batch_size: int,
        seed: int,
        names: dict[str, str] | None = None,
        rarity: float = 0.6,
        held_out: int = 4,
        look: Look | None = None,
        emphasis: dict[str, float] | None = None,
        cameras_each: int = 1,
    ) -> None:
        if batch_size % cameras_each:
            raise ValueError(f"batch_size={batch_size} is no multiple of cameras_each={cameras_each}")
        self.cameras_each = cameras_each
        self.renders, self.batch_size, self.seed, self.held_out = renders, batch_size, seed, held_out
        self.look = look or Look()
        self.start_step = 0
        subjects = subject_names(renders.items)
        self.called = select_models(renders.items, names)
        self.models = np.array(list(self.called))
        self.subjects = {subjects[i]: name for i, name in self.called.items()}
        self.names = sorted(set(self.called.values()))
        counts = Counter(self.called.values())
        # A name's share is count^(1 - rarity) times its emphasis: names with many models do not drown the others.
        shares = {name: count ** (1 - rarity) * (emphasis or {}).get(name, 1.0) for name, count in counts.items()}
        rank: Counter[str] = Counter()
        weight = []
        for name in self.called.values():
            weight.append(shares[name] * FURTHER ** rank[name] / sum(FURTHER**r for r in range(counts[name])))
            rank[name] += 1
        self.probability = np.array(weight) / np.sum(weight)

    def spoken(self) -> dict[str, str]:
        """What captions call the models -> the name that it stands for; a library's name that is itself learned under a
        name stands for that.
        """
        own = {self.renders.items[model].name: name for model, name in self.called.items()}
        return {**own, **{name: name for name in self.names}}

    def __iter__(self) -> Iterator[Batch]:
        step = self.start_step
        while True:
            yield self.draw(step)
            step += 1

    def draw(self, step: int) -> Batch:
        """The training batch of one step."""
        rng = np.random.default_rng((self.seed, step))
        models = rng.choice(self.models, self.batch_size // self.cameras_each, p=self.probability)
        models = models.repeat(self.cameras_each)
        views = rng.integers(0, self.renders.views - self.held_out, self.batch_size)
        return self._compose(rng, models, views, self.cameras_each)

    def validation(self, size: int) -> Batch:
        """A fixed batch of held-out views, the same for every network that sees the same renders and names."""
        rng = np.random.default_rng((self.seed, 2**40))
        models = rng.choice(self.models, size, p=self.probability)
        views = rng.integers(self.renders.views - self.held_out, self.renders.views, size)
        return self._compose(rng, models, views, 1)

    def picture(self, rng: np.random.Generator, model: int, view: int, color: str | None = None) -> np.ndarray:
        """One render (r, r, 3) in [0, 1] in any light and over any background of training, in its own colours or in
        the one asked for; never textureless.
        """
        set_ = self.renders
        albedo = set_.albedo[model, view].astype(np.float32) / 255
        alpha = set_.alpha[model, view].astype(np.float32)[..., None] / 255
        if color is not None:
            albedo = recolor(albedo, alpha[..., 0], color)
        if rng.random() < self.look.lambertian:
            azimuth, elevation = float(set_.azimuth[model, view]), float(set_.elevation[model, view])
            albedo = albedo * _lambertian(rng, set_.normal[model, view], azimuth, elevation)
        return np.asarray(albedo * alpha + self._background(rng) * (1 - alpha), dtype=np.float32)

    def _compose(self, rng: np.random.Generator, models: np.ndarray, views: np.ndarray, cameras_each: int) -> Batch:
        set_ = self.renders
        images, captions, looks, drawings, subjects = [], [], [], [], []
        azimuth, elevation, distance = (a[models, views] for a in (set_.azimuth, set_.elevation, set_.distance))
        color: str | None = None
        for i, (m, v, az, el) in enumerate(zip(models, views, azimuth, elevation, strict=True)):
            if i % cameras_each == 0:
                color = str(rng.choice(list(COLORS))) if rng.random() < self.look.recolored else None
                own = set_.items[m].name
                name = own if rng.random() < OWN_NAME else self.called[int(m)]
            albedo = set_.albedo[m, v].astype(np.float32) / 255
            alpha = set_.alpha[m, v].astype(np.float32)[..., None] / 255
            if color is not None:
                albedo = recolor(albedo, alpha[..., 0], color)
            kind, image = self._light(rng, albedo, set_.normal[m, v], float(az), float(el))
            grey = self._background(rng)
            images.append(image * alpha + grey * (1 - alpha))
            looks.append((grey * 2 - 1, kind))
            normal = set_.normal[m, v].astype(np.float32) / 127.5 - 1
            drawings.append(np.concatenate([albedo * alpha, alpha, normal * alpha], axis=2))
            subjects.append(caption(rng, name, color, view_words(float(az), float(el))))
            captions.append(caption(rng, name, color if kind >= 0 else None, view_words(float(az), float(el))))
        pixels, painted = (_channels_first(pictures) for pictures in (images, drawings))
        camera = camera_features(*(torch.from_numpy(a.astype(np.float32)) for a in (azimuth, elevation, distance)))
        order = list(self.called)
        subject = torch.tensor([order.index(int(m)) for m in models[::cameras_each]])
        return Batch(pixels * 2 - 1, captions, with_look(camera, torch.tensor(looks)), painted, subjects, subject)

    def _light(
        self, rng: np.random.Generator, albedo: np.ndarray, normal: np.ndarray, az: float, el: float
    ) -> tuple[float, np.ndarray]:
        """Kind of light (see `Cameras.look`) and shaded pixels (r, r, 3), as Eq. 7 shades the NeRF."""
        kind = rng.random()
        if kind >= self.look.textureless + self.look.lambertian:
            return 0.0, albedo
        shade = _lambertian(rng, normal, az, el)
        if kind < self.look.textureless:
            return -1.0, np.ones_like(albedo) * shade
        return 1.0, albedo * shade

    def _background(self, rng: np.random.Generator) -> float:
        """Grey level in [0, 1]."""
        return 1.0 if rng.random() < self.look.white_background else float(rng.random())


def _channels_first(pictures: list[np.ndarray]) -> Tensor:
    """B pictures (r, r, C) -> (B, C, r, r)."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def _lambertian(rng: np.random.Generator, normal: np.ndarray, azimuth: float, elevation: float) -> np.ndarray:
    """Eq. 7's factor on the albedo, (r, r, 1), for stored normals (r, r, 3) and a light anywhere about the camera."""
    angles = torch.tensor([azimuth, elevation, 1.0], dtype=torch.float64)
    camera = spherical(*angles).numpy()
    light = camera + rng.normal(size=3)
    light = (light / np.linalg.norm(light)).astype(np.float32)
    diffuse = np.maximum((normal.astype(np.float32) / 127.5 - 1) @ light, 0)[..., None]
    ambient = rng.uniform(0.1, 0.6)
    return np.asarray(ambient + (1 - ambient) * diffuse)
