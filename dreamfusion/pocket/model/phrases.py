"""The noun phrases of a prompt, and what they say about each other."""

from dataclasses import dataclass, field, replace
from itertools import pairwise

from dreamfusion.pocket.model.words import COLORS, OWN_COLOR, WORN

FRUITS = {"orange"}  # colours that are things as well
ALL = (["both"], ["all"])  # a colour after these words is that of all objects before


@dataclass
class Phrase:
    """A noun phrase while it is read."""

    relation: str = ""
    name: str = ""
    words: str = ""  # that stand for the name
    color: str | None = None
    color_word: str = ""
    size: float = 1.0
    size_word: str = ""
    count: int = 1
    number: str = ""  # the word for the count
    pair: bool = False
    article: str = ""
    read_as: dict[str, str] = field(default_factory=dict)  # words -> known words
    others: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # others that name nothing, whatever they are
    closed: bool = False  # a word came after the name that no compound has
    places: bool = False  # a word came after the relation that is no pronoun
    turned: str = ""  # how the object before stands to this one: "in" of "a box with a cat inside"
    sealed: bool = False  # "of" came after the name: what follows says what it is made of

    @property
    def unshown(self) -> list[str]:
        """Words to ignore if the phrase shows no object."""
        words = (self.number, self.size_word, self.color_word, self.words, *self.others, *self.skipped)
        return [word for word in words if word]

    @property
    def may_be_color(self) -> bool:
        """Whether a colour here may be that of the object before: "a dog, red", not "a dog, an orange"."""
        own = self.relation in OWN_COLOR and (self.relation != "on" or self.color in (None, self.color_word))
        return own and not (self.name or self.article or self.number)


def share_names(phrases: list[Phrase]) -> None:
    """ "a red and a blue chair" are two chairs."""
    for following, phrase in pairwise(reversed(phrases)):
        alone = phrase.color and not (phrase.name or phrase.others) and (phrase.article or phrase.number)
        # "an orange and a cat", "a peach and a cat": fruits
        meant = following.color or phrase.color_word in COLORS.keys() - FRUITS
        if alone and meant and following.relation in ("and", ",") and following.name:
            phrase.name, phrase.words = following.name, following.words


def share_colors(phrases: list[Phrase]) -> None:
    """A phrase that is only a colour gives it to the object before it, if that has none."""
    named: list[Phrase] = []
    for phrase in phrases:
        if phrase.name:
            named.append(phrase)
        elif phrase.color and phrase.may_be_color and (not phrase.others or phrase.others in ALL):
            colorless = [before for before in (named if phrase.others else named[-1:]) if before.color is None]
            for before in colorless:
                before.color = phrase.color
            if colorless:
                colorless[-1].read_as |= phrase.read_as
                phrase.color_word, phrase.others = "", []


def place(phrases: list[Phrase]) -> None:
    """Give the objects the order and the relations that the arrangement knows."""
    if len(phrases) > 1:
        first, second, *after = phrases
        if second.name in WORN and second.turned == "on":
            second.relation = "wearing"
        elif first.name and second.name and second.turned:
            phrases[:2] = second, first
            first.relation, second.relation = second.turned, ""
        elif second.relation == "between" and after and after[0].relation == "and":
            phrases[:2] = second, first
            first.relation, second.relation = "and", ""
        elif second.relation == "between" and second.count == 2:
            other = replace(second, relation="", count=1, read_as={}, others=[], skipped=[])
            phrases[:2] = other, first, second
            first.relation, second.count = "and", 1
    for phrase in phrases:
        if phrase.relation == "between":
            phrase.relation = "and"
        elif phrase.relation in ("in", "with") and phrase.name in WORN:
            phrase.relation = "wearing"
