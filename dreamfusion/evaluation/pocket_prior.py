"""Scores of the pocket prior's samples (`mode=evaluate_prior`).

Whether a sample shows the model named in the prompt (among N), the colour in the prompt, and the side facing the
camera. Images are compared in the feature space of `likeness.py`, which is independent of any prior; each score has a
ceiling, the same score of real renders in place of samples.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dreamfusion.camera.orbit import spherical
from dreamfusion.evaluation.likeness import border_color, color_word, features
from dreamfusion.pocket.data.batches import RenderBatches
from dreamfusion.pocket.data.renders import RenderSet
from dreamfusion.pocket.model.words import COLORS, with_article

GREY = np.full(3, 0.5, dtype=np.float32)
SOLID = 0.9  # minimum opacity of a pixel that shows the object alone
VISIBLE = 64  # minimum number of such pixels to measure a colour
SIDES = (0.0, 180.0)  # degrees of azimuth: front and back
SIDE_ELEVATION, SIDE_DISTANCE = 15.0, 3.0
# Maximum azimuth difference and elevation of renders that count as front or back; a model has a distinct front if at
# least the share SIDE_SHARE of these renders have their nearest neighbour on the same side.
SIDE_WIDTH, SIDE_HIGHEST, SIDE_SHARE = 30.0, 45.0, 0.9


@dataclass(frozen=True, eq=False)
class Views:
    """Camera positions of B images."""

    azimuth: np.ndarray  # (B,) degrees
    elevation: np.ndarray  # (B,) degrees
    distance: np.ndarray  # (B,) radii of the object

    def positions(self) -> np.ndarray:
        """Cartesian positions (B, 3)."""
        angles = (torch.tensor(np.asarray(a)) for a in (self.azimuth, self.elevation, self.distance))
        return spherical(*angles).numpy()


# Prompts and views -> images (B, r, r, 3) in [0, 1].
Sampler = Callable[[Sequence[str], Views], np.ndarray]


@dataclass(frozen=True, eq=False)
class Retrieval:
    """Rank of the named model among all models, by distance to the sample of "a NOUN"."""

    nouns: tuple[str, ...]
    rank: np.ndarray  # (N,) number of models nearer than the named one
    ceiling_rank: np.ndarray  # (N,) the same for a render of the model in another light, compared with its other views
    triplets: tuple[np.ndarray, ...]  # sample, nearest and correct render of each noun, (r, r, 3)

    def top(self, count: int) -> float:
        """Share of samples whose model is among the nearest `count`."""
        return float((self.rank < count).mean())

    def ceiling(self, count: int) -> float:
        """Share of real renders whose model is among the nearest `count`."""
        return float((self.ceiling_rank < count).mean())


@dataclass(frozen=True)
class Accuracy:
    """Correctness of samples, one per prompt."""

    prompts: tuple[str, ...]  # without the article
    correct: tuple[bool, ...]
    ceiling: float  # share of real renders that are correct

    @property
    def share(self) -> float:
        """Share of correct samples."""
        return float(np.mean(self.correct)) if self.correct else float("nan")


NOTHING_ASKED = Accuracy((), (), float("nan"))


class Evaluation:
    """Scores of a sampler; prompts and views are a function of the renders, the names and the seed."""

    def __init__(self, data: RenderBatches, sampler: Sampler, seed: int) -> None:
        """Use those names of `data` as prompts that refer to exactly one model."""
        self.data, self.renders, self.sampler, self.seed = data, data.renders, sampler, seed
        count = Counter(data.names_by_model.values())
        single = {name: model for model, name in data.names_by_model.items() if count[name] == 1}
        self.models = {name: single[name] for name in sorted(single)}

    def retrieval(self, count: int) -> Retrieval:
        """Rank samples of `count` nouns, each at the camera of a held-out view of its model, among all models.

        The correct image is that held-out view; each other model is represented by its view nearest to the camera.
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

    def colors(self, count: int) -> Accuracy:
        """Classify the mean colour inside the model's silhouette, for "a COLOUR NOUN" with `count` nouns."""
        rng = np.random.default_rng((self.seed, 2))
        free = [noun for noun in self.models if not set(noun.split()) & set(COLORS)]
        order = self._draw(rng, free, len(free))
        views = dict(zip(order, self._held_out(rng, len(order)), strict=True))
        nouns = [n for n in order if self._solid(self.models[n], views[n]).sum() >= VISIBLE][:count]
        if not nouns:
            return NOTHING_ASKED
        words = [list(COLORS)[i % len(COLORS)] for i in range(len(nouns))]
        models, view = np.array([self.models[n] for n in nouns]), np.array([views[n] for n in nouns])
        prompts = [f"{word} {noun}" for word, noun in zip(words, nouns, strict=True)]
        samples = self.sampler([with_article(text) for text in prompts], views_of(self.renders, models, view))
        correct, ceiling = [], []
        for word, model, v, sample in zip(words, models, view, samples, strict=True):
            solid = self._solid(model, v)
            correct.append(color_word(sample[solid].mean(axis=0)) == word)
            ceiling.append(color_word(self.data.picture(rng, int(model), int(v), word)[solid].mean(axis=0)) == word)
        return Accuracy(tuple(prompts), tuple(correct), float(np.mean(ceiling)))

    def azimuth(self, count: int) -> Accuracy:
        """Classify samples from front and back, for at most `count` models whose two sides differ.

        The class of an image is the side of the nearest render of its model; both sides must be correct.
        """
        rng = np.random.default_rng((self.seed, 3))
        nouns = [n for n in self._draw(rng, list(self.models), len(self.models)) if self._has_front(self.models[n])]
        nouns = nouns[:count]
        if not nouns:
            return NOTHING_ASKED
        azimuth = np.tile(SIDES, len(nouns))
        views = Views(azimuth, np.full_like(azimuth, SIDE_ELEVATION), np.full_like(azimuth, SIDE_DISTANCE))
        samples = self.sampler([with_article(noun) for noun in nouns for _ in SIDES], views)
        correct, ceiling = [], []
        for i, noun in enumerate(nouns):
            model = self.models[noun]
            correct.append([self._side(model, sample) for sample in samples[2 * i : 2 * i + 2]] == list(SIDES))
            own = [int(rng.choice(self._side_views(model, side))) for side in SIDES]
            shown = [self._side(model, self.data.picture(rng, model, view), without=view) for view in own]
            ceiling.append(shown == list(SIDES))
        return Accuracy(tuple(nouns), tuple(correct), float(np.mean(ceiling)))

    def _draw(self, rng: np.random.Generator, nouns: list[str], count: int) -> list[str]:
        return [nouns[i] for i in rng.permutation(len(nouns))[:count]]

    def _held_out(self, rng: np.random.Generator, count: int) -> np.ndarray:
        return rng.integers(self.renders.views - self.data.held_out, self.renders.views, count)

    def _solid(self, model: int, view: int) -> np.ndarray:
        return np.asarray(self.renders.alpha[model, view] >= SOLID * 255)

    def _compare(
        self, picture: np.ndarray, models: np.ndarray, own: int, view: int, itself: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Distances (N,) of `picture`, seen as `view` of models[own], to each model's nearest view; and these views.

        `itself` allows models[own] to be represented by `view` itself.
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
        """Views within SIDE_WIDTH of the azimuth `side`, up to the elevation SIDE_HIGHEST."""
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
        """Side of the model's render nearest to `picture`, leaving out the view `without`."""
        views = {int(v): side for side in SIDES for v in self._side_views(model, side) if v != without}
        background = border_color(picture)
        gallery = np.stack([plain_picture(self.renders, model, view, background) for view in views])
        nearest = np.linalg.norm(features(gallery) - features(picture[None]), axis=1).argmin()
        return list(views.values())[int(nearest)]


def views_of(renders: RenderSet, models: np.ndarray | int, views: np.ndarray | int | slice = slice(None)) -> Views:
    """Cameras of stored renders, in the shape of the indices."""
    return Views(*(np.asarray(a[models, views]) for a in (renders.azimuth, renders.elevation, renders.distance)))


def plain_picture(renders: RenderSet, model: int, view: int, background: np.ndarray) -> np.ndarray:
    """An unlit stored render over a background colour (3,): (r, r, 3) in [0, 1]."""
    alpha = renders.alpha[model, view].astype(np.float32)[..., None] / 255
    return renders.albedo[model, view].astype(np.float32) / 255 * alpha + background * (1 - alpha)
