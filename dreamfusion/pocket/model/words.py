"""The words of the pocket prior's captions, names, colours and articles, and words of prompts that mean one of them."""

import re
from pathlib import Path

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


# Other words for a colour, and materials by the colour that most people see in them.
SHADES: dict[str, str] = {
    word: color
    for color, words in {
        "red": "crimson scarlet ruby cherry maroon burgundy vermilion carmine reddish",
        "green": "emerald lime olive mint jade khaki mossy greenish grassy",
        "blue": "navy azure sapphire cobalt indigo bluish denim ultramarine",
        "yellow": "golden gold lemon amber mustard yellowish brass",
        "orange": "copper tangerine apricot peach terracotta rusty",
        "purple": "violet lilac lavender mauve amethyst plum magenta",
        "pink": "rosy salmon fuchsia pinkish coral",
        "brown": "wooden wood oak walnut mahogany chocolate bronze leather tan hazel chestnut brownish beech teak",
        "black": "ebony jet coal onyx blackish charcoal",
        "white": "ivory snowy pearl porcelain marble cream alabaster whitish",
        "gray": "grey silver silvery steel iron metal metallic stone concrete aluminium aluminum chrome granite pewter "
        "grayish greyish titanium cement",
        "turquoise": "teal cyan aqua aquamarine",
    }.items()
    for word in words.split()
}
# Shades that are first a material: a colour beside one is its paint.
MATERIALS = frozenset(
    word
    for words in (
        "wooden wood oak walnut mahogany beech teak leather denim ebony ivory porcelain marble alabaster terracotta",
        "brass copper bronze steel iron metal metallic aluminium aluminum chrome titanium pewter",
        "stone granite concrete cement",
    )
    for word in words.split()
)
SIZES = {
    **dict.fromkeys(("tiny", "miniature", "mini", "minuscule"), 0.5),
    **dict.fromkeys(("small", "little"), 0.7),
    **dict.fromkeys(("big", "large"), 1.4),
    **dict.fromkeys(("huge", "giant", "gigantic", "enormous"), 2.0),
}
_FROM_TWO = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
NUMBERS = {**dict(zip(_FROM_TWO, range(2, 13), strict=True)), "few": 3, "dozen": 12}
MANY = ("several", "many", "multiple", "numerous")  # more than can be shown
WITH_ARTICLE = ("few", "dozen")  # numbers that "a" may stand before: "a 1960 car" is one
PAIRS = {"pair": 2, "couple": 2}  # as NUMBERS, but not of things that come in pairs: "a pair of scissors"
DETERMINERS = frozenset({"a", "an", "the", "one", "another", "some", "my", "his", "her", "its"})
# Words of a prompt -> how an object stands to those before it.
RELATIONS: dict[str, str] = {
    words: relation
    for relation, phrases in {
        "and": "and, &, plus, beside, next to, near, near to, close to, alongside, along with, together with, "
        "adjacent to, against",
        "with": "with",
        "left of": "left of, to the left of, on the left of, at the left of, on the left side of",
        "right of": "right of, to the right of, on the right of, at the right of, on the right side of",
        "in front of": "in front of, before",
        "behind": "behind",
        "between": "between, in between, among",  # the reader makes it "and"
        "on": "on, on top, on top of, atop, upon, onto, above, over, riding, riding on, on the top of",
        "in": "in, inside, into, within, inside of",
        "under": "under, below, beneath, underneath",
        "wearing": "wearing",
    }.items()
    for words in phrases.split(", ")
}
# Words that stand before a relation and add nothing to it; elsewhere they are poses.
POSTURES = frozenset(
    {"sitting", "standing", "lying", "placed", "resting", "perched", "parked", "leaning", "that", "which", "is", "are"}
)
# Words between two names of one object: "a cat shaped teapot".
COMPOUND = frozenset({"shaped", "styled", "themed", "patterned", "inspired", "like", "toy"})
PRONOUNS = ("it", "them", "him")  # after a relation, the object before
WORN = frozenset({"baseball cap", "straw hat", "motorcycle helmet", "eyeglasses", "sunglasses", "headphones"})
# Words that a number before them counts, not the object: "a two seater sofa".
COUNTED = frozenset(
    word
    for words in (
        "seater legged wheel wheeled door drawer burner armed headed eyed sided",
        "story storey tier tiered",
        "piece year poster string speed",
    )
    for word in words.split()
)
OWN_COLOR = (",", "in", "on", "wearing")  # after these relations, a colour alone is that of the object before
LIKENESSES = ("shape", "form", "likeness")  # before "of", as UNTIL_COMMA: "in the shape of a cat"
UNTIL_COMMA = frozenset({"style", "without", "no", "by", "for", "from", "to"})  # nothing after them names an object
# Words that carry no meaning of their own here: those of any caption.
SILENT = frozenset({"at", "front", "side", "back", "view", "made", "out"})


def _read_synonyms() -> dict[str, str]:
    lines = (Path(__file__).parent / "synonyms.txt").read_text(encoding="utf-8").splitlines()
    rows = [line.partition("=") for line in lines if line and not line.startswith("#")]
    return {word.strip(): name.strip() for name, _, words in rows for word in words.split(",")}


SYNONYMS = _read_synonyms()  # other words for a name -> the name


def singular(word: str) -> list[str]:
    """Singulars that a word may be the plural of; none if it does not end like a plural."""
    irregular = {"men": "man", "women": "woman", "knives": "knife", "shelves": "shelf", "children": "child"}
    if word in irregular:
        return [irregular[word]]
    if len(word) < 3 or not word.endswith("s") or word.endswith(_SINGULAR_S):
        return []
    found = [word[:-1]]
    if word.endswith("ies"):
        found.append(word[:-3] + "y")
    elif word.endswith("es"):
        found.append(word[:-2])
    return found


def number_of(word: str) -> int:
    """The number that a word means; 0 if it means none."""
    if word in MANY:
        return 99
    return NUMBERS.get(word) or (int(word) if word.isdecimal() and len(word) < 10 else 0)


def color_of(word: str) -> str | None:
    """The colour that a word means, also as the last part of a compound ("blood-red"); None if it means none."""
    first, _, last = word.rpartition("-")
    if first == "non":
        return None
    return last if last in COLORS else SHADES.get(last)


def colors_apart(word: str) -> list[str]:
    """ "pink-and-white", "black-white" -> its colours; any other word as it is."""
    parts = [part for part in word.split("-") if part != "and"]
    known = COLORS | SHADES if "-and-" in word else COLORS  # "olive-green" is one colour
    return parts if len(parts) > 1 and all(part in known for part in parts) else [word]
