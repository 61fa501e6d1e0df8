"""What a prompt means to the pocket prior: its objects, how they stand to each other, and what is left over."""

from dataclasses import dataclass, replace

from dreamfusion.pocket.model.words import with_article


@dataclass(frozen=True)
class Thing:
    """An object that a prompt names."""

    name: str  # of the vocabulary
    color: str | None = None  # of `words.COLORS`
    size: float = 1.0  # relative to the other objects of the prompt

    @property
    def caption(self) -> str:
        """As in the training captions: "a red chair"."""
        return with_article(f"{self.color} {self.name}" if self.color else self.name)


@dataclass(frozen=True)
class Reading:
    """What a prompt means here."""

    things: tuple[Thing, ...]  # at most MOST; none if no known name was found
    relations: tuple[str, ...]  # each of things[1:] to all things before it: a value of RELATIONS
    read_as: dict[str, str]  # words of the prompt -> the known words they were read as
    ignored: tuple[str, ...]
    guessed: bool = False  # whether a name was taken because it is similar to the words
    view: str = ""  # such as "front view"
    fewer: tuple[str, ...] = ()  # such as "4 of 5 cats"

    @property
    def caption(self) -> str:
        """The prompt in the words of the training captions, with the words of the view; "" without things."""
        if not self.things:
            return ""
        text = self.things[0].caption
        for relation, thing in zip(self.relations, self.things[1:], strict=True):
            text += f" {relation} {thing.caption}"
        return f"{text}, {self.view}" if self.view else text

    def summary(self) -> str:
        """One line: what the prompt is read as, for whoever wrote it."""
        text = f"the pocket prior reads {replace(self, view='').caption}"
        if self.read_as:
            text += f" ({', '.join(f'{words} as {known}' for words, known in self.read_as.items())})"
        text += f"; it shows {', '.join(self.fewer)}" if self.fewer else ""
        return text + (f"; it ignores {', '.join(self.ignored)}" if self.ignored else "")
