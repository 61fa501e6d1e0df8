"""The words of the pocket prior's captions: names, colours and articles; and which words of a prompt are among them."""

import re
from collections.abc import Iterable

# sRGB; also the mean colour of a recoloured render.
COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.10, 0.10),
    "green": (0.15, 0.60, 0.20),
    "blue": (0.15, 0.30, 0.85),
    "yellow": (0.95, 0.85, 0.15),
    "orange": (0.95, 0.50, 0.10),
    "purple": (0.55, 0.15, 0.70),
    "pink": (0.95, 0.55, 0.75),
    "brown": (0.45, 0.27, 0.12),
    "black": (0.09, 0.09, 0.10),
    "white": (0.95, 0.95, 0.95),
    "gray": (0.50, 0.50, 0.50),
    "turquoise": (0.15, 0.75, 0.75),
}

# Names without an article: plurals and mass nouns.
_NO_ARTICLE = frozenset(
    {"bread", "french fries", "butter", "milk", "sugar", "soap", "headphones", "sunglasses", "glasses"}
)
_SINGULAR_S = ("ss", "us", "is")
_VOWEL = re.compile("[aeio]|u(?!fo|k|ni|s|t)")  # sounds: "an umbrella", "a unicorn"


def with_article(name: str) -> str:
    """ "cat" -> "a cat", "armchair" -> "an armchair", "tulips" -> "tulips"."""
    last = name.split()[-1]
    if name in _NO_ARTICLE or (last.endswith("s") and not last.endswith(_SINGULAR_S)):
        return name
    return ("an " if _VOWEL.match(name) else "a ") + name


# Words that carry no meaning of their own here: articles and prepositions of any caption.
_SILENT = frozenset({"a", "an", "the", "of", "and", "with", "on", "in", "at", "its", "front", "side", "back", "view"})


def sorted_words(prompt: str, names: Iterable[str]) -> tuple[list[str], list[str], list[str]]:
    """The known names in a prompt (longest first where they overlap), its colours, and its other words."""
    known = {tuple(name.lower().split()) for name in names}
    longest = max(map(len, known), default=0)
    words = re.findall(r"[\w'-]+", prompt.lower())
    found: list[str] = []
    colors: list[str] = []
    others: list[str] = []
    while words:
        count = next((n for n in range(min(longest, len(words)), 0, -1) if tuple(words[:n]) in known), 0)
        if count:
            found.append(" ".join(words[:count]))
        elif words[0] in COLORS:
            colors.append(words[0])
        elif words[0] not in _SILENT:
            others.append(words[0])
        del words[: max(count, 1)]
    return found, colors, list(dict.fromkeys(others))
