"""Known words that an unknown one is probably a misspelling of: "chiar" is "chair"."""

from collections.abc import Callable, Collection, Iterable
from difflib import get_close_matches

from dreamfusion.pocket.model.words import COLORS, singular, with_article

CLOSE = 0.8  # least ratio of difflib's SequenceMatcher, for words of four letters or more
SHORT = 3  # letters; such words are compared letter by letter


def correction(words: Iterable[str], known: Collection[str], is_word: Callable[[str], bool]) -> str | None:
    """The known object (with its article) or colour that the first misspelled word means; None if none does.

    `is_word` tells words that are spelled correctly, whether they mean something here or not: an owl is no bowl.
    """
    for word in words:
        abbreviation = len(word) <= 2 and not set(word) & set("aeiouy")  # frequent, but names nothing: "ct"
        if not word.isalpha() or (is_word(word) and not abbreviation):
            continue
        for tried in (word, *singular(word)):
            if found := _closest(tried, known):
                return found if found in COLORS else with_article(found)
    return None


def _closest(word: str, known: Collection[str]) -> str | None:
    """The most similar known word: of the same letters and beginning, then with one letter more, then of any length."""
    swapped = [one for one in known if one[0] == word[0] and sorted(one) == sorted(word)]
    if swapped:
        return swapped[0]
    if len(word) > SHORT:
        return next(iter(get_close_matches(word, known, n=1, cutoff=CLOSE)), None)
    longer = (one for one in known if len(one) == len(word) + 1 and len(one) > 2)
    return next((one for one in longer if word in {one[:i] + one[i + 1 :] for i in range(len(one))}), None)
