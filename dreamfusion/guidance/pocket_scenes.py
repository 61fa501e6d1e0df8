"""What the pocket prior's texts show: one model, or several in one scene; and the proxy renders of it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dreamfusion.error import GuidanceError
from dreamfusion.guidance.pocket_vocabulary import Vocabulary
from dreamfusion.pocket import LENGTHS, WEIGHTS
from dreamfusion.pocket.model.denoiser import PocketModel, sentence_features
from dreamfusion.pocket.model.reading import Reading, Thing
from dreamfusion.pocket.model.text import TextEncoder
from dreamfusion.pocket.model.words import with_article
from dreamfusion.truth.composed import Placed
from dreamfusion.types import Movable, TextEmbedding

if TYPE_CHECKING:
    from dreamfusion.pocket.model.proxy_render import ProxyRender


RANDOM = "random"  # the variant that is drawn
COMPRESSION, SHORTEST = 0.6, 0.25  # exponent of a length relative to the longest, and the least share of it


@dataclass(frozen=True)
class Scene:
    """Models that stand together; of a single one the text of each view says the colour."""

    subjects: tuple[int, ...]  # indices of the models
    captions: tuple[str, ...] = ()  # of several models
    lengths: tuple[float, ...] = ()  # see `arrange`
    relations: tuple[str, ...] = ()  # see `Reading.relations`


def shown_lengths(centimetres: Sequence[float], factors: Sequence[float]) -> tuple[float, ...]:
    """Lengths for `arrange` that keep the order of real ones, but let a ring be seen beside a table.

    `factors` are of words such as "small". If a real length is not known (0), all objects are equally long.
    """
    if min(centimetres) <= 0:
        return tuple(factors)
    shares = [max((length / max(centimetres)) ** COMPRESSION, SHORTEST) for length in centimetres]
    return tuple(share * factor for share, factor in zip(shares, factors, strict=True))


def read_lengths(folder: Path) -> dict[str, float]:
    """Title of a model -> its longest side, centimetres, from a folder of weights; empty without the file."""
    file = folder / LENGTHS
    known: dict[str, float] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return known


@cache
def default_layout(prompt: str) -> tuple[Placed, ...] | None:
    """`Composer.layout` of the package's own weights."""
    encoder = TextEncoder.load(WEIGHTS / "text_encoder")
    scenes = Scenes(PocketModel.load(WEIGHTS).requires_grad_(False), encoder, WEIGHTS, 0, 0)
    return scenes.layout(Vocabulary(WEIGHTS, encoder).read(prompt))


@dataclass(frozen=True, eq=False)
class _Prepared(Movable):
    """A scene on a device."""

    subject: Tensor  # (G,)
    sentence: Tensor  # (G, D), of the captions of several models
    placement: Tensor  # (G, 4), see `arrange`
    sizes: tuple[tuple[float, float], ...]  # see `render_together`; none for a single model


class Scenes:
    """The scenes of all texts encoded so far. A text refers to its scene by the scene's number."""

    def __init__(self, model: PocketModel, encoder: TextEncoder, folder: Path, variant: int | str, seed: int) -> None:
        """`folder` is that of the weights; `variant` and `seed` are those of `PocketPrior`."""
        self._model, self._encoder, self._folder = model, encoder, folder
        self._variant, self._seed = variant, seed
        self._numbers: dict[Scene, int] = {}
        self._prepared: dict[int, _Prepared] = {}

    def numbered(self, encoded: TextEmbedding, captions: Sequence[str], readings: Sequence[Reading]) -> TextEmbedding:
        """K texts with the numbers of their scenes as `pooled` (K, 1).

        -1 for an empty text; and, beside texts that name something, for those that do not, such as negative prompts.
        """
        sentence = sentence_features(encoded.states, encoded.mask)
        likeliest = self._model.feature_volume.select_subjects(sentence, 0).tolist()
        named = any(reading.things for reading in readings)
        numbers = [
            float(self._numbers.setdefault(self._scene(reading, subject), len(self._numbers)))
            if caption and (reading.things or not named)
            else -1.0
            for caption, reading, subject in zip(captions, readings, likeliest, strict=True)
        ]
        shown = {int(number) for number in numbers if number >= 0}
        pooled = torch.tensor(numbers, device=encoded.states.device)[:, None]
        return replace(encoded, pooled=pooled, scene=shown.pop() if len(shown) == 1 else None)

    def check_variant(self, reading: Reading) -> None:
        """Raises: GuidanceError: no object of the prompt has as many variants as are asked for."""
        volume = self._model.feature_volume
        if self._variant in (0, RANDOM) or volume is None or not reading.things:
            return
        known = {name: len(volume.variants(name)) for name in map(self._model_name, reading.things)}
        name, count = max(known.items(), key=lambda item: item[1])
        if int(self._variant) >= count:
            allowed = f"type 0 to {count - 1}" if count > 1 else "leave guidance.variant out"
            raise GuidanceError(f'guidance.variant={self._variant}, but the prior has {count} of "{name}"; {allowed}')

    def layout(self, reading: Reading) -> tuple[Placed, ...] | None:
        """The models of a prompt as they are; None if it shows another variant, names a colour, or no known object.

        Also None if the weights learned a model under this name that is none of the package's.
        """
        volume, things = self._model.feature_volume, reading.things
        if volume is None or not things or reading.guessed or any(thing.color for thing in things):
            return None
        scene = self._scene(reading, 0)
        names = [volume.names[subject] for subject in scene.subjects]
        if any(volume.variants(name)[0] != subject for name, subject in zip(names, scene.subjects, strict=True)):
            return None
        if not {self._identity(subject) for subject in scene.subjects} <= read_lengths(WEIGHTS).items():
            return None
        if len(names) == 1:
            return (Placed(names[0]),)
        number = self._numbers.setdefault(scene, len(self._numbers))
        rows = zip(names, self._prepare(number, volume.codes.device).placement.tolist(), strict=True)
        return tuple(Placed(name, (x, y, z), scale) for name, (x, y, z, scale) in rows)

    def render(self, text: TextEmbedding, camera: Tensor, size: int) -> "ProxyRender | None":
        """Proxy renders of B texts from the cameras (B, 12); None if the text of some image has no scene."""
        if text.pooled is None:
            return None
        if text.scene is not None:  # then there is nothing to ask the device for, and to wait
            return self._of(text.scene, text, camera, size)
        numbers = text.pooled[:, 0].round().long()
        if int(numbers.min()) < 0:
            return None
        parts: list[Tensor] | None = None
        for number in numbers.unique().tolist():
            rows = (numbers == number).nonzero()[:, 0]
            proxy = self._of(number, text[rows], camera[rows], size)
            own = [proxy.rgba, proxy.normal, proxy.features]
            parts = parts or [part.new_zeros(len(camera), *part.shape[1:]) for part in own]
            for whole, part in zip(parts, own, strict=True):
                whole[rows] = part
        assert parts is not None
        return type(proxy)(*parts)

    def _of(self, number: int, text: TextEmbedding, camera: Tensor, size: int) -> "ProxyRender":
        ready = self._prepare(number, camera.device)
        if not ready.sizes:
            return self._model.render_proxy(text.states.to(camera.dtype), text.mask, camera, ready.subject, size=size)
        return self._model.render_scene(ready.sentence, ready.subject, ready.placement, ready.sizes, camera, size)

    def _prepare(self, number: int, device: torch.device) -> _Prepared:
        """The scene on the device; what it needs is computed once."""
        ready = self._prepared.get(number)
        if ready is None:
            scene = list(self._numbers)[number]
            none = torch.empty(0, device=device)
            ready = _Prepared(torch.tensor(scene.subjects, device=device), none, none, ())
            if scene.captions:
                ready = self._arranged(scene, ready.subject)
        elif ready.subject.device != device:
            ready = ready.to(device)
        self._prepared[number] = ready
        return ready

    def _arranged(self, scene: Scene, subject: Tensor) -> _Prepared:
        from dreamfusion.pocket.model.arrangement import arrange

        texts = self._encoder(scene.captions)
        sentence = sentence_features(texts.states, texts.mask).to(subject.device)
        volume = self._model.feature_volume
        placement = arrange(volume.decode(subject, volume.voxels // volume.rays), scene.lengths, scene.relations)
        sizes = zip(placement[:, :3].norm(dim=1).tolist(), placement[:, 3].tolist(), strict=True)
        return _Prepared(subject, sentence, placement.to(subject.device), tuple(sizes))

    def _scene(self, reading: Reading, likeliest: int) -> Scene:
        """What a text shows; without a known name, the model that the network finds in it."""
        volume, things = self._model.feature_volume, reading.things
        names = [self._model_name(thing) for thing in things] or [volume.names[likeliest]]
        subjects = tuple(self._model_of(name, place) for place, name in enumerate(names))
        if len(things) < 2:
            return Scene(subjects)
        real = [self._identity(subject)[1] for subject in subjects]
        lengths = shown_lengths(real, [thing.size for thing in things])
        return Scene(subjects, tuple(thing.caption for thing in things), lengths, reading.relations)

    def _model_name(self, thing: Thing) -> str:
        """The name under which the models of an object are learned: some have another one in their library."""
        volume = self._model.feature_volume
        if thing.name in volume.vocabulary:
            return thing.name
        text = self._encoder([with_article(thing.name)])
        (subject,) = volume.select_subjects(sentence_features(text.states, text.mask), 0).tolist()
        name: str = volume.names[subject]
        return name

    def _model_of(self, name: str, place: int) -> int:
        """The model with this name that the variant selects, for the object number `place` of a prompt."""
        models: list[int] = self._model.feature_volume.variants(name)
        if self._variant == RANDOM:
            generator = torch.Generator().manual_seed(self._seed + place)
            return models[int(torch.randint(len(models), (), generator=generator))]
        return models[min(int(self._variant), len(models) - 1)]

    def _identity(self, subject: int) -> tuple[str, float]:
        """Title of a model and its longest side, centimetres, 0 if not known: the same for the same model."""
        title: str = self._model.feature_volume.config.subjects[subject]
        return title, self._lengths.get(title, 0.0)

    @cached_property
    def _lengths(self) -> dict[str, float]:
        return read_lengths(self._folder)
