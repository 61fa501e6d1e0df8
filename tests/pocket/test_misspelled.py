"""Misspelled objects are recognised by their letters; other unknown words are not taken for misspelled ones."""

import pytest
from tokenizers import Tokenizer

from dreamfusion.pocket import WEIGHTS
from dreamfusion.pocket.model.spelling import correction
from dreamfusion.pocket.model.words import COLORS, SYNONYMS

NAMES = (WEIGHTS / "vocabulary.txt").read_text(encoding="utf-8").split("\n")[:-1]


@pytest.fixture(scope="module")
def correct():
    tokenizer = Tokenizer.from_file(str(WEIGHTS / "text_encoder" / "tokenizer.json"))
    known = [*NAMES, *COLORS, *SYNONYMS]
    return lambda words: correction(words.split(), known, lambda word: tokenizer.token_to_id(word) is not None)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("chiar", "a chair"),
        ("shiny chiars", "a chair"),
        ("ct", "a cat"),
        ("dgo", "a dog"),
        ("bycicle", "a bicycle"),
        ("telefone", "a telephone"),
        ("hambuger", "a hamburger"),
        ("yelow", "yellow"),
        ("sunglases", "sunglasses"),
    ],
)
def test_a_misspelled_word_is_that_of_the_most_similar_letters(correct, words, meant):
    assert correct(words) == meant


@pytest.mark.parametrize(
    "words", ["dragon", "owl", "ox", "ant", "cow", "castle", "quasar", "4k", "", "eiffel tower", "x"]
)
def test_words_that_only_resemble_a_name_are_not_corrected(correct, words):
    assert correct(words) is None
