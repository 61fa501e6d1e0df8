"""Read a prompt: the known objects it names, with colour and size, how they stand to each other, and what is left over.

A prompt is a chain of noun phrases and relations: "two golden mailboxes on a wooden table". The last known name of a
noun phrase is its object, as in English compounds ("a cat shaped teapot"). Words with a meaning here are those of
`words.py`; every other word is left over.
"""

import re
import unicodedata
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import cached_property

from dreamfusion.pocket.model.phrases import Phrase, place, share_colors, share_names
from dreamfusion.pocket.model.reading import Reading, Thing
from dreamfusion.pocket.model.words import (
    COMPOUND,
    COUNTED,
    DETERMINERS,
    LIKENESSES,
    MANY,
    MATERIALS,
    PAIRS,
    POSTURES,
    PRONOUNS,
    RELATIONS,
    SILENT,
    SIZES,
    SYNONYMS,
    UNTIL_COMMA,
    WITH_ARTICLE,
    color_of,
    colors_apart,
    number_of,
    singular,
)

MOST = 4  # objects of a prompt
JOINTS = ("and", "&", ",")
NEAR = ("", "and", "left of", "right of")  # after another relation, unknown words are mostly a place: "in the sky"
APOSTROPHES = {ord(sign): "'" for sign in "\u2018\u2019\u02bc"}  # as phones and text processors write them
_WORD = re.compile(r"[\w'-]+|[,&]")
VIEW = re.compile(r",?\s*\b(?:(?:in|from)\s+(?:an?\s+|the\s+)?)?(front|side|back|overhead) view\b")


class Reader:
    """Read prompts with one vocabulary."""

    def __init__(self, names: Collection[str], near: Callable[[str], str | None]) -> None:
        """`near` maps words to the most similar name, or None if none is similar; asked only for unknown words."""
        self._names, self._near = set(names), near

    @cached_property
    def _phrases(self) -> dict[tuple[str, ...], str]:
        """Words -> the name they mean, or a relation in brackets."""
        known = {tuple(name.lower().split()): name for name in self._names}
        synonyms = {tuple(words.split()): name for words, name in SYNONYMS.items() if name in self._names}
        relations = {tuple(words.split()): f"<{relation}>" for words, relation in RELATIONS.items()}
        return relations | synonyms | known

    def __call__(self, prompt: str) -> Reading:
        """What the prompt means. A prompt without a known name, or words similar to one, has no things."""
        text = unicodedata.normalize("NFKC", prompt).lower().translate(APOSTROPHES)
        views = VIEW.findall(text)
        reading = _Draft(self._near)
        words = [part for word in _WORD.findall(VIEW.sub("", text)) for part in colors_apart(word)]
        while words:
            words = words[reading.add(words, *self._meaning(words)) :]
        return replace(reading.finished(prompt.strip()), view=f"{views[-1]} view" if views else "")

    def _meaning(self, words: Sequence[str]) -> tuple[str, int]:
        """The name or relation that the first words mean, "" if they mean none, and how many words it takes."""
        longest = max(map(len, self._phrases), default=0)
        for count in range(min(longest, len(words)), 0, -1):
            given = tuple(words[:count])
            for tried in dict.fromkeys((given, *((*given[:-1], one) for one in singular(given[-1])))):
                if tried in self._phrases:
                    return self._phrases[tried], count
        return "", 1


class _Draft:
    """A reading while it is made."""

    def __init__(self, near: Callable[[str], str | None]) -> None:
        self._near = near
        self._now, self._done = Phrase(), list[Phrase]()
        self._read_as: dict[str, str] = {}
        self._guessed = False
        self._postures: list[str] = []  # words that count only if no relation follows
        self._skipping = False

    def add(self, words: Sequence[str], meaning: str, count: int) -> int:
        """Read the first of the remaining words; returns how many were read."""
        said, now = " ".join(words[:count]), self._now
        if self._skipping and said != ",":
            if said not in DETERMINERS:
                now.skipped.append(said)
            return count
        after = words[count] if len(words) > count else ""
        if said == ",":
            self._skipping = False
        if meaning in ("<and>", "") and said in JOINTS and not now.name:
            ends = said == "," and now.may_be_color and (now.color or color_of(after))
            if after not in DETERMINERS and not number_of(after) and not ends:
                return count  # between adjectives: "a red and striped armchair"
        if meaning.startswith("<"):
            self._next(meaning[1:-1])
            return count
        now.places = now.places or said not in PRONOUNS
        if self._postures:
            now.others += self._postures
            now.closed, self._postures = bool(now.name), []
        if meaning:
            self._name(meaning, said)
        elif said == ",":
            self._next(",")
        elif said in UNTIL_COMMA or _likens(said, after, bool(now.name)):
            self._skipping = True
            now.skipped.append(said)
        elif said in POSTURES:
            self._postures.append(said)
        elif (color := color_of(said)) is not None:
            self._color(color, said)
        elif (number := number_of(said)) and after not in COUNTED:
            self._number(number, said)
        elif said in PAIRS and not now.name:
            now.count, now.number, now.pair = PAIRS[said], said, True
        elif said in SIZES:
            now.size, now.size_word = SIZES[said], said
        elif said == "of":
            now.sealed = bool(now.name)
        elif said in DETERMINERS:
            self._phrase_begins()
            self._now.article = said
        elif said not in SILENT and not (said in PRONOUNS and now.relation and not now.unshown):
            now.others.append(said)
            compound = said in COMPOUND or said.endswith("-shaped")
            now.closed = not compound and (now.closed or bool(now.name))
        return count

    def finished(self, prompt: str) -> Reading:
        """The reading of all words."""
        self._now.others += self._postures
        self._next("")
        things: list[Thing] = []
        relations: list[str] = []
        ignored, fewer = list[str](), list[str]()
        for phrase in self._done:
            if not phrase.name and phrase.others and phrase.relation in NEAR:
                self._look_up(phrase, prompt if len(self._done) == 1 else "")
        share_names(self._done)
        share_colors(self._done)
        place(self._done)
        named = sum(bool(phrase.name) for phrase in self._done)  # each shall be shown once
        for phrase in self._done:
            if not phrase.name or len(things) == MOST:
                ignored += phrase.unshown
                continue
            ignored += [*phrase.others, *phrase.skipped]
            self._read_as |= phrase.read_as
            named -= 1
            count = min(phrase.count, max(MOST - len(things) - named, 1))
            if count < phrase.count:
                number = phrase.number if phrase.number in MANY else phrase.count
                fewer.append(f"{count} of {number} {phrase.words}")
            if things:
                relations.append("and" if phrase.relation == "," else phrase.relation)
            relations += ["and"] * (count - 1)
            things += [Thing(phrase.name, phrase.color, phrase.size)] * count
        if len(things) == 1:  # nothing to be larger or smaller than
            ignored += [phrase.size_word for phrase in self._done if phrase.size_word]
            things = [replace(things[0], size=1.0)]
        said = tuple(dict.fromkeys(ignored))
        return Reading(tuple(things), tuple(relations), self._read_as, said, self._guessed, fewer=tuple(fewer))

    def _name(self, name: str, said: str) -> None:
        now = self._now
        # "a cat juggling keys": what a verb does to the second object is not known. After "with", a name counts only if
        # it stands alone.
        if now.sealed and (made_of := color_of(said)):
            self._color(made_of, said)
            return
        if (now.name and (now.closed or now.sealed)) or (now.relation in ("with", ",") and now.others):
            now.others.append(said)
            return
        if now.pair and (said == name or SYNONYMS.get(said) == name):
            now.count = 1
        if now.name:
            now.read_as.pop(now.words, None)
            if made_of := color_of(now.words):  # "a stone bench", where a stone is an object too
                self._color(made_of, now.words)
            else:
                now.others.append(now.words)
        if said != name:
            now.read_as[said] = name
        now.name, now.words = name, said

    def _number(self, number: int, said: str) -> None:
        now = self._now
        one = now.article in ("a", "an") and not now.name and said not in WITH_ARTICLE
        if one or now.sealed:
            now.others.append(said)
            return
        self._phrase_begins()
        self._now.count, self._now.number = number, said

    def _color(self, color: str, said: str) -> None:
        now = self._now
        painted = now.color_word in MATERIALS and said not in MATERIALS  # "a wooden red chair" is red
        if now.color not in (None, color) and not painted:  # an object has one colour
            now.skipped.append(said)
            return
        if painted:
            now.skipped.append(now.color_word)
            now.read_as.pop(now.color_word, None)
            now.color_word = ""
        now.color, now.color_word = color, now.color_word or said
        if said != color:
            now.read_as[said] = color

    def _phrase_begins(self) -> None:
        """A determiner or number: what follows is another object, if there is one already."""
        if self._now.name and not self._now.sealed:
            self._next("and")

    def _next(self, relation: str) -> None:
        self._postures = []
        now = self._now
        if now.unshown:
            self._done.append(now)
        elif now.places:
            pass  # "in front", "on the side": of no object
        elif self._done and self._done[-1].relation in ("with", "and", ",") and now.relation not in NEAR:
            self._done[-1].turned = now.relation  # "with a cat inside", "and a lamp on it"
        elif now.relation not in ("", "and", ","):
            relation = now.relation  # nothing stood between two relations
        self._now = Phrase(relation=relation)

    def _look_up(self, phrase: Phrase, prompt: str) -> None:
        """Find the name that is most similar to the phrase's words together, to the last of them, or to the prompt."""
        together = " ".join(phrase.others)
        for said in dict.fromkeys((together, phrase.others[-1], prompt)):
            name = self._near(said) if said else None
            if name is not None:
                phrase.name, phrase.words = name, said
                phrase.others = [] if said in (together, prompt) else [word for word in phrase.others if word != said]
                phrase.read_as[said], self._guessed = name, True
                return


def _likens(said: str, after: str, named: bool) -> bool:
    """Whether a word and the next begin what the object only resembles."""
    return (said in LIKENESSES and after == "of") or (said == "like" and named and after in DETERMINERS)
