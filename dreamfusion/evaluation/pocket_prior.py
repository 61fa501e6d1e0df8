"""What the pocket prior has learned, in figures: `mode=evaluate`.

Loss on held-out views by noise level; and of samples, whether they show the model that the words name (among N), the
colour asked for, and the side the camera sees. Compared in the space of `likeness.py`, which no prior was trained in;
each figure comes with its ceiling, the share that real renders reach in the place of samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dreamfusion.camera.orbit import spherical
from dreamfusion.evaluation.likeness import border_color, color_word, features
from dreamfusion.pocket.data.batches import RenderBatches
from dreamfusion.pocket.data.captions import COLORS, with_article
from dreamfusion.pocket.data.renders import RenderSet

GREY = np.full(3, 0.5, dtype=np.float32)
SOLID = 0.9  # opacity from which a pixel shows the object alone
VISIBLE = 64  # such pixels, below which a colour cannot be told
SIDES = (0.0, 180.0)  # degrees of azimuth: front and back
SIDE_ELEVATION, SIDE_DISTANCE = 15.0, 3.0
# A model's renders from the front, or the back, are those within these degrees. It has a front if of these at least so
# many have their nearest neighbour on their own side.
SIDE_WIDTH, SIDE_HIGHEST, SIDE_SHARE = 30.0, 45.0, 0.9


@dataclass(frozen=True, eq=False)
class Views:
    """Where B pictures are taken from."""

    azimuth: np.ndarray  # (B,) degrees
    elevation: np.ndarray  # (B,) degrees
    distance: np.ndarray  # (B,) radii of the object

    def positions(self) -> np.ndarray:
        """Of the cameras, (B, 3)."""
        angles = (torch.tensor(np.asarray(a)) for a in (self.azimuth, self.elevation, self.distance))
        return spherical(*angles).numpy()


# Prompts and views -> pictures (B, r, r, 3) in [0, 1].
Sampler = Callable[[Sequence[str], Views], np.ndarray]


@dataclass(frozen=True, eq=False)
class Retrieval:
    """Whether "a NOUN" looks like that noun's model, among all of them."""

    nouns: tuple[str, ...]
    rank: np.ndarray  # (N,) how many other models are nearer than the right one
    ceiling_rank: np.ndarray  # (N,) likewise of a render of the model in another light, against its other views
    triplets: tuple[np.ndarray, ...]  # sample, nearest, right one of each noun, (r, r, 3)

    def top(self, count: int) -> float:
        """The share of samples whose model is among the nearest `count`."""
        return float((self.rank < count).mean())

    def ceiling(self, count: int) -> float:
        """The same of real renders."""
        return float((self.ceiling_rank < count).mean())


@dataclass(frozen=True)
class Answers:
    """Questions with one right answer each."""

    asked: tuple[str, ...]
    right: tuple[bool, ...]  # of the samples
    ceiling: float  # share of real renders that are right

    @property
    def share(self) -> float:
        """Of samples that are right."""
        return float(np.mean(self.right)) if self.right else float("nan")


class Evaluation:
    """The measures over samples; every choice is a function of the renders, the names and the seed."""

    def __init__(self, data: RenderBatches, sampler: Sampler, seed: int) -> None:
        """`data` says which models are learned under which names; nouns that name one single model are asked for."""
        self.data, self.renders, self.sampler, self.seed = data, data.renders, sampler, seed
        count = Counter(data.names_by_model.values())
        single = {name: model for model, name in data.names_by_model.items() if count[name] == 1}
        self.models = {name: single[name] for name in sorted(single)}

    def retrieval(self, count: int) -> Retrieval:
        """A sample of each of `count` nouns at the camera of a held-out view of its model, against all the models.

        The right picture is that held-out view; each other model shows the view that is nearest to its camera.
        """
        rng = np.random.default_rng((self.seed, 1))
        nouns = self._draw(rng, list(self.models), count)
        models = np.array([self.models[noun] for noun in nouns])
        held_out = self._held_out(rng, len(nouns))
        samples = self.sampler([with_article(noun) for noun in nouns], views_of(self.renders, models, held_out))
        rank, ceiling_rank, triplets = [], [], []
        for i, sample in enumerate(samples):
            distance, gallery = self._compare(sample, models, i, held_out[i], itself=True)
            rank.append(int((distance < distance[i]).sum()))
            triplets += [sample, gallery[int(distance.argmin())], gallery[i]]
            real = self.data.picture(rng, int(models[i]), int(held_out[i]))
            distance, _ = self._compare(real, models, i, held_out[i], itself=False)
            ceiling_rank.append(int((distance < distance[i]).sum()))
        return Retrieval(tuple(nouns), np.array(rank), np.array(ceiling_rank), tuple(triplets))

    def colors(self, count: int) -> Answers:
        """ "a COLOUR NOUN" for `count` nouns, the words in turn: the colour of the pixels where the model is."""
        rng = np.random.default_rng((self.seed, 2))
        free = [noun for noun in self.models if not set(noun.split()) & set(COLORS)]
        order = self._draw(rng, free, len(free))
        views = dict(zip(order, self._held_out(rng, len(order)), strict=True))
        nouns = [n for n in order if self._solid(self.models[n], views[n]).sum() >= VISIBLE][:count]
        words = [list(COLORS)[i % len(COLORS)] for i in range(len(nouns))]
        models, view = np.array([self.models[n] for n in nouns]), np.array([views[n] for n in nouns])
        asked = [f"{word} {noun}" for word, noun in zip(words, nouns, strict=True)]
        samples = self.sampler([with_article(text) for text in asked], views_of(self.renders, models, view))
        right, ceiling = [], []
        for word, model, v, sample in zip(words, models, view, samples, strict=True):
            solid = self._solid(model, v)
            right.append(color_word(sample[solid].mean(axis=0)) == word)
            ceiling.append(color_word(self.data.picture(rng, int(model), int(v), word)[solid].mean(axis=0)) == word)
        return Answers(tuple(asked), tuple(right), float(np.mean(ceiling)))

    def azimuth(self, count: int) -> Answers:
        """ "a NOUN" from the front and from the back, for at most `count` models whose own two sides differ.

        A picture shows the side of the model's render that is nearest to it; right is a model with both sides right.
        """
        rng = np.random.default_rng((self.seed, 3))
        nouns = [n for n in self._draw(rng, list(self.models), len(self.models)) if self._has_front(self.models[n])]
        nouns = nouns[:count]
        if not nouns:
            return Answers((), (), float("nan"))
        azimuth = np.tile(SIDES, len(nouns))
        views = Views(azimuth, np.full_like(azimuth, SIDE_ELEVATION), np.full_like(azimuth, SIDE_DISTANCE))
        samples = self.sampler([with_article(noun) for noun in nouns for _ in SIDES], views)
        right, ceiling = [], []
        for i, noun in enumerate(nouns):
            model = self.models[noun]
            right.append([self._side(model, sample) for sample in samples[2 * i : 2 * i + 2]] == list(SIDES))
            own = [int(rng.choice(self._side_views(model, side))) for side in SIDES]
            shown = [self._side(model, self.data.picture(rng, model, view), without=view) for view in own]
            ceiling.append(shown == list(SIDES))
        return Answers(tuple(nouns), tuple(right), float(np.mean(ceiling)))

    def _draw(self, rng: np.random.Generator, nouns: list[str], count: int) -> list[str]:
        return [nouns[i] for i in rng.permutation(len(nouns))[:count]]

    def _held_out(self, rng: np.random.Generator, count: int) -> np.ndarray:
        return rng.integers(self.renders.views - self.data.held_out, self.renders.views, count)

    def _solid(self, model: int, view: int) -> np.ndarray:
        return np.asarray(self.renders.alpha[model, view] >= SOLID * 255)

    def _compare(
        self, picture: np.ndarray, models: np.ndarray, own: int, view: int, itself: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Distance of `picture`, taken from `view` of models[own], to each model's nearest view, and these (N, ...).

        `itself` says whether models[own] may show that very view.
        """
        position = views_of(self.renders, models[own], view).positions()
        away = np.linalg.norm(views_of(self.renders, models).positions() - position, axis=-1)  # (N, V)
        away[own, view] = 0.0 if itself else np.inf
        background = border_color(picture)
        gallery = np.stack(
            [plain_picture(self.renders, m, v, background) for m, v in zip(models, away.argmin(1), strict=True)]
        )
        return np.linalg.norm(features(gallery) - features(picture[None]), axis=1), gallery

    def _side_views(self, model: int, side: float) -> np.ndarray:
        """The views from about the azimuth `side`, not from high above."""
        turned = np.abs((self.renders.azimuth[model] - side + 180) % 360 - 180)
        return np.flatnonzero((turned <= SIDE_WIDTH) & (self.renders.elevation[model] <= SIDE_HIGHEST))

    def _has_front(self, model: int) -> bool:
        views = {int(view): side for side in SIDES for view in self._side_views(model, side)}
        if len(set(views.values())) < len(SIDES):
            return False
        seen = features(np.stack([plain_picture(self.renders, model, view, GREY) for view in views]))
        distance = np.linalg.norm(seen[:, None] - seen, axis=-1)
        np.fill_diagonal(distance, np.inf)
        sides = np.array(list(views.values()))
        return bool((sides[distance.argmin(axis=1)] == sides).mean() >= SIDE_SHARE)

    def _side(self, model: int, picture: np.ndarray, without: int = -1) -> float:
        """The side from which the model's render that is nearest to `picture` was taken."""
        views = {int(v): side for side in SIDES for v in self._side_views(model, side) if v != without}
        background = border_color(picture)
        gallery = np.stack([plain_picture(self.renders, model, view, background) for view in views])
        nearest = np.linalg.norm(features(gallery) - features(picture[None]), axis=1).argmin()
        return list(views.values())[int(nearest)]


def views_of(renders: RenderSet, models: np.ndarray | int, views: np.ndarray | int | slice = slice(None)) -> Views:
    """The cameras of stored renders, in the shape of the indices."""
    return Views(*(np.asarray(a[models, views]) for a in (renders.azimuth, renders.elevation, renders.distance)))


def plain_picture(renders: RenderSet, model: int, view: int, background: np.ndarray) -> np.ndarray:
    """A stored render without light, over a colour (3,): (r, r, 3) in [0, 1]."""
    alpha = renders.alpha[model, view].astype(np.float32)[..., None] / 255
    return renders.albedo[model, view].astype(np.float32) / 255 * alpha + background * (1 - alpha)
