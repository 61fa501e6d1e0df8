"""Prompts are read as objects, colours, sizes and relations; what is not understood is named."""

from pathlib import Path

import pytest

from dreamfusion.pocket import WEIGHTS
from dreamfusion.pocket.model.prompt import MOST, Reader
from dreamfusion.pocket.model.reading import Thing
from dreamfusion.pocket.model.words import COLORS, SHADES, SYNONYMS, singular

NAMES = (WEIGHTS / "vocabulary.txt").read_text(encoding="utf-8").split("\n")[:-1]
SIMILAR = {"gnu": "horse", "wild gnu": "deer", "moon": "ring"}


@pytest.fixture(scope="module")
def read():
    return Reader(NAMES, SIMILAR.get)


def test_every_synonym_means_a_name_and_is_no_name_itself():
    assert set(SYNONYMS.values()) <= set(NAMES)
    assert not set(SYNONYMS) & set(NAMES)
    assert set(SHADES.values()) == set(COLORS) and not set(SHADES) & set(COLORS)


def test_a_synonym_is_listed_once():
    lines = (Path(singular.__code__.co_filename).parent / "synonyms.txt").read_text(encoding="utf-8").splitlines()
    words = [word.strip() for line in lines if line[:1] not in "#" for word in line.partition("=")[2].split(",")]
    assert len(words) == len(set(words)) == len(SYNONYMS)


@pytest.mark.parametrize(
    ("prompt", "caption"),
    [
        ("a cat", "a cat"),
        ("A CAT, oil painting, highly detailed", "a cat"),
        ("cats", "a cat"),
        ("a kitten", "a cat"),
        ("a feline animal", "a cat"),
        ("knives", "a knife"),
        ("strawberries", ""),
        ("bread", "bread"),
        ("an escalator", "an escalator"),
        ("a golden mailbox", "a yellow mailbox"),
        ("a wooden chair", "a brown chair"),
        ("a blood-red bicycle", "a red bicycle"),
        ("a non-red bicycle", "a bicycle"),
        ("a stone bench", "a gray bench"),
        ("a bench made of stone", "a gray bench"),
        ("a teapot in the shape of a cat", "a teapot"),
        ("a cat in the style of a chair", "a cat"),
        ("a chair that looks like a cat", "a chair"),
        ("something like a cat", "a cat"),
        ("two seater sofa", "a sofa"),
        ("a table, four legged", "a table"),
        ("a chair made of steel", "a gray chair"),
        ("a red armchair, front view", "a red armchair, front view"),
        ("back view of a dog", "a dog, back view"),
        ("a cat shaped teapot", "a teapot"),
        ("a teddy bear chair", "a chair"),
        ("a bowl of fruit", "a bowl of fruit"),
        ("a vase made of bread", "a vase"),
        ("a chair in the style of van gogh", "a chair"),
        ("a bookcase without books", "a bookcase"),
        ("a cat juggling keys", "a cat"),
        ("a bed for a cat", "a bed"),
        ("a tiny dog", "a dog"),
        ("a red, shiny and old armchair", "a red armchair"),
        ("a bottle of wine", "a wine bottle"),
        ("a dog, red", "a red dog"),
        ("a cat, black, 4k", "a black cat"),
        ("a cat, shiny, black", "a black cat"),
        ("a cat, black and white", "a black cat"),
        ("a dog in red, studio light", "a red dog"),
        ("a cat on red", "a red cat"),
        ("a man wearing blue", "a blue man"),
        ("a chair, wooden", "a brown chair"),
        ("a chair in red leather", "a red chair"),
        ("a wooden red chair", "a red chair"),
        ("a red wooden chair", "a red chair"),
        ("a steel chair painted blue", "a blue chair"),
        ("a leather wooden chair", "a brown chair"),
        ("a red blue chair", "a red chair"),
        ("a cat on concrete", "a cat"),
        ("a cat on a red mat", "a cat"),
        ("a cat in an oak", "a cat"),
        ("a plate with salmon", "a plate"),
        ("a cat, red eyes", "a cat"),
        ("a cat behind red", "a cat"),
    ],
)
def test_one_object_is_read_as_a_training_caption(read, prompt, caption):
    assert read(prompt).caption == caption


@pytest.mark.parametrize(
    ("prompt", "caption"),
    [
        ("a cat and a dog", "a cat and a dog"),
        ("a cat & a dog", "a cat and a dog"),
        ("a gnu and a dog", "a horse and a dog"),
        ("a cat, a dog, studio light", "a cat and a dog"),
        ("a red cat sitting on a blue chair", "a red cat on a blue chair"),
        ("two dogs", "a dog and a dog"),
        ("two cacti on a table", "a cactus and a cactus on a table"),
        ("a pair of cats under a table", "a cat and a cat under a table"),
        ("a pair of scissors", "scissors"),
        ("a lamp on a desk next to a bed", "a lamp on a desk and a bed"),
        ("a ball to the left of a bench", "a soccer ball left of a bench"),
        ("a dog wearing a straw hat", "a dog wearing a straw hat"),
        ("a dog chasing a ball", "a dog and a soccer ball"),
        ("a cat on the moon", "a cat"),
        ("a gnu on a sofa", "a horse on a sofa"),
        ("a 1960 car", "a car"),
        ("a four poster bed", "a bed"),
        ("1 cat", "a cat"),
        ("0 cats", "a cat"),
        ("2 cats and 1 dog", "a cat and a cat and a dog"),
        ("a few dogs", "a dog and a dog and a dog"),
        ("some cats", "a cat"),
        ("two cats of 5", "a cat and a cat"),
        ("a car behind a bus, side view", "a car behind a bus, side view"),
        ("a mug with a picture of a dog", "a coffee mug"),
        ("a boy with a ball", "a boy with a soccer ball"),
        ("a cat on the left of a dog", "a cat left of a dog"),
        ("a cat on the right side of a dog", "a cat right of a dog"),
        ("a dog in red and a cat in blue", "a red dog and a blue cat"),
        ("a dog, red, a cat", "a red dog and a cat"),
        ("a cat, black, on a white sofa", "a black cat on a white sofa"),
        ("two cats, black", "a black cat and a black cat"),
        ("a cat and a dog, both black", "a black cat and a black dog"),
        ("a red cat and a dog, both black", "a red cat and a black dog"),
        ("a box with a red cat inside", "a red cat in a cardboard box"),
        ("a table with a lamp on it and a dog", "a lamp on a table and a dog"),
        ("a table and a lamp on top", "a lamp on a table"),
        ("a box, a cat inside it", "a cat in a cardboard box"),
        ("a cat with a dog beside it", "a cat with a dog"),
        ("a table with a tiara on it", "a table"),
        ("it on it", ""),
        ("a dog in between a cat and a chair", "a cat and a dog and a chair"),
        ("a dog between chairs", "a dog and a chair"),
        ("a man in a red hat", "a man wearing a red straw hat"),
        ("a cat with sunglasses on a sofa", "a cat wearing sunglasses on a sofa"),
        ("a red and a blue chair", "a red chair and a blue chair"),
        ("two red and one blue cat", "a red cat and a red cat and a blue cat"),
        ("a shiny and a blue chair", "a blue chair"),
        ("a red, a blue and a green chair", "a red chair and a blue chair and a green chair"),
        ("an orange and a cat", "a cat"),
        ("a peach and a cat", "a cat"),
        ("an orange and a blue chair", "an orange chair and a blue chair"),
        ("a table with an orange and a teapot", "a table and a teapot"),
        ("a dog and a cat in front", "a dog and a cat"),
        ("a sofa with a table in front", "a sofa with a table"),
        ("a bed with a lamp in the back", "a bed with a lamp"),
        ("a cat and a dog on the side", "a cat and a dog"),
        ("a cat with a ball in front view", "a cat with a soccer ball, front view"),
        ("a cat with a hat on", "a cat wearing a straw hat"),
        ("a box with a hat inside", "a straw hat in a cardboard box"),
        ("a dog between two chairs", "a chair and a dog and a chair"),
    ],
)
def test_objects_are_joined_by_the_relations_of_the_prompt(read, prompt, caption):
    assert read(prompt).caption == caption


def test_what_a_paint_hides_is_ignored_and_said(read):
    reading = read("a wooden red chair")
    assert reading.ignored == ("wooden",) and reading.read_as == {}
    assert read("an oak red chair and a steel table").read_as == {"steel": "gray"}


def test_sizes_count_only_beside_another_object(read):
    assert read("a tiny dog").ignored == ("tiny",)
    small, large = read("a small cat on a huge sofa").things
    assert (small, large) == (Thing("cat", None, 0.7), Thing("sofa", None, 2.0))


@pytest.mark.parametrize("sign", ["\u2019", "\u2018", "\u02bc"])
def test_an_apostrophe_of_a_phone_or_a_text_processor_is_one(read, sign):
    assert read(f"a gnu{sign}s house and a cat") == read("a gnu's house and a cat")
    assert read("a \uff32\uff25\uff24 cat").caption == "a red cat", "wide letters"


def test_no_more_than_a_few_objects_are_taken(read):
    reading = read("a cat, a dog, a car, a bus, a bed and a bench")
    assert [thing.name for thing in reading.things] == ["cat", "dog", "car", "bus"] and len(reading.things) == MOST
    assert reading.ignored == ("bed", "bench") and len(reading.relations) == MOST - 1


@pytest.mark.parametrize(
    ("prompt", "names", "fewer"),
    [
        ("5 cats", "cat cat cat cat", ["4 of 5 cats"]),
        ("ten chairs", "chair chair chair chair", ["4 of 10 chairs"]),
        ("a dozen dogs", "dog dog dog dog", ["4 of 12 dogs"]),
        ("several dogs", "dog dog dog dog", ["4 of several dogs"]),
        ("many red dogs", "dog dog dog dog", ["4 of many dogs"]),
        ("999999999 gnu", "horse horse horse horse", ["4 of 999999999 gnu"]),
        ("a table with four chairs", "table chair chair chair", ["3 of 4 chairs"]),
        ("five cats and a dog", "cat cat cat dog", ["3 of 5 cats"]),
        ("four cats and four dogs", "cat cat cat dog", ["3 of 4 cats", "1 of 4 dogs"]),
        ("three dogs, two cats", "dog dog dog cat", ["1 of 2 cats"]),
        ("four cats", "cat cat cat cat", []),
    ],
)
def test_a_number_above_what_can_be_shown_is_said_to_be(read, prompt, names, fewer):
    reading = read(prompt)
    assert " ".join(thing.name for thing in reading.things) == names
    assert list(reading.fewer) == fewer and not reading.ignored
    assert reading.summary().endswith(f"; it shows {', '.join(fewer)}" if fewer else ")")


def test_a_number_without_a_known_object_is_named(read):
    assert read("cat 2").ignored == ("2",)
    assert read("a stool with 3 legs").ignored == ("3", "legs")


def test_what_is_not_understood_is_named(read):
    reading = read("two golden kittens wearing a tiara on a striped sofa")
    assert reading.caption == "a yellow cat and a yellow cat on a sofa"
    assert reading.read_as == {"golden": "yellow", "kittens": "cat"}
    assert reading.ignored == ("tiara", "striped")
    assert reading.summary() == (
        "the pocket prior reads a yellow cat and a yellow cat on a sofa (golden as yellow, kittens as cat); "
        "it ignores tiara, striped"
    )


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a dog, red", "a red dog"),
        ("a red dog, blue", "a red dog; it ignores blue"),
        ("a dog, crimson", "a red dog (crimson as red)"),
        ("black and white cat", "a black cat; it ignores white"),
        ("a pink-and-white striped cat", "a pink cat; it ignores striped, white"),
        ("a black-white cat", "a black cat; it ignores white"),
        ("a blood-red cat", "a red cat (blood-red as red)"),
        ("a red and blue ball", "a red soccer ball (ball as soccer ball); it ignores blue"),
        ("a silver and gold ring", "a gray ring (silver as gray); it ignores gold"),
        ("a golden yellow cat", "a yellow cat (golden as yellow)"),
        ("a white dog with black spots", "a white dog; it ignores black, spots"),
        ("a white vase on white", "a white vase; it ignores white"),
        ("red, a dog", "a dog; it ignores red"),
        ("a cat on two huge golden mats", "a cat; it ignores two, huge, golden, mats"),
        (
            "a cat, a dog, a car, a bus and a golden bench",
            "a cat and a dog and a car and a bus; it ignores golden, bench",
        ),
        ("a kitten armchair", "an armchair; it ignores kitten"),
    ],
)
def test_a_word_is_either_read_or_ignored(read, prompt, said):
    assert read(prompt).summary() == f"the pocket prior reads {said}"


def test_similar_names_are_looked_up_for_the_phrase_then_for_its_last_word(read):
    assert [thing.name for thing in read("a wild gnu").things] == ["deer"] and read("a wild gnu").guessed
    assert not read("kittens").guessed
    assert read("a hungry gnu").things == (Thing("horse"),) and read("a hungry gnu").ignored == ("hungry",)
    assert read("a gnu's house").things == () and read("a gnu's house").caption == ""


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        ",",
        "of of",
        "on on",
        "a",
        "1e999",
        "😀",
        "a" * 10_000,
        "9" * 10_000,
        "on a table " * 300,
        "a tesla model s",
        "s",
    ],
)
def test_any_text_can_be_read(read, prompt):
    assert len(read(prompt).things) <= MOST
