"""The names that the pocket prior knows: how a prompt is read with them, and what is said about it."""

import logging
from functools import cached_property
from pathlib import Path

from torch import Tensor

from dreamfusion.pocket.model.prompt import Reader
from dreamfusion.pocket.model.reading import Reading
from dreamfusion.pocket.model.spelling import correction
from dreamfusion.pocket.model.text import TextEncoder
from dreamfusion.pocket.model.words import COLORS, SYNONYMS, with_article

log = logging.getLogger(__name__)

# Threshold on the cosine (all-MiniLM-L6-v2) between words and the nearest "a <name>". Chosen on 34 similar and 34
# unrelated prompts; of 68 others, it accepted 26 of 34 similar ones ("a tabby cat", not "a rucksack") and no unrelated.
KNOWN = 0.6
NEAREST = 4  # number of names in the warning


class Vocabulary:
    """The names in `vocabulary.txt` of a folder of weights; none without the file: then prompts stay as they are."""

    def __init__(self, folder: Path, encoder: TextEncoder) -> None:
        self._folder, self._encoder = folder, encoder
        self._read: dict[str, Reading] = {}

    @cached_property
    def names(self) -> list[str]:
        """The names of the trained objects."""
        file = self._folder / "vocabulary.txt"
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        return [line.strip() for line in lines if line.strip()]

    def read(self, text: str) -> Reading:
        """The known objects, colours, sizes and relations in a text."""
        if text not in self._read:
            self._read[text] = self._reader(text)
        return self._read[text]

    def announce(self, prompt: str) -> Reading:
        """Read a prompt. Log how; a warning if it names nothing known."""
        reading = self.read(prompt)
        meant = self._meant(reading)
        if reading.things:
            log.info("%s%s", reading.summary(), f"; {meant}" if meant else "")
            return reading
        log.warning(
            'The pocket prior was not trained on anything like "%s" (%d known objects; %s). '
            "The shape will not follow the prompt; use guidance=sd for open vocabulary.",
            prompt,
            len(self.names),
            meant or f'nearest: "{self._nearest(prompt)}"',
        )
        return reading

    def _meant(self, reading: Reading) -> str:
        """A question, if an ignored word seems misspelled; "" otherwise."""
        meant = correction(reading.ignored, [*self.names, *COLORS], self._encoder.is_word)
        if meant is None and not reading.things:  # beside an object, more words are of styles: "bokeh" is no bloke
            synonyms = [word for word, name in SYNONYMS.items() if name in self.names]
            meant = correction(reading.ignored, synonyms, self._encoder.is_word)
        return f'did you mean "{meant}"?' if meant else ""

    def _nearest(self, prompt: str) -> str:
        """The names that are most similar to an unknown prompt."""
        vector = self._encoder.sentence([prompt])[0].cpu()
        nearest = (self._vectors @ vector).topk(min(NEAREST, len(self.names))).indices.tolist()
        return '", "'.join(with_article(self.names[index]) for index in nearest)

    @cached_property
    def _reader(self) -> Reader:
        return Reader(self.names, self._similar)

    def _similar(self, words: str) -> str | None:
        """The most similar name, if its cosine to the words is at least KNOWN."""
        if not self.names:
            return None
        cosine, index = (self._vectors @ self._encoder.sentence([with_article(words)])[0].cpu()).max(dim=0)
        return self.names[int(index)] if cosine >= KNOWN else None

    @cached_property
    def _vectors(self) -> Tensor:
        """Sentence vectors (N, 384) of the names. Computing them takes seconds, so only words without a name do."""
        return self._encoder.sentence([f"a {name}" for name in self.names]).cpu()
