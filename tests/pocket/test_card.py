"""The model card: which models are credited, and where the training began."""

import pytest

from dreamfusion.pocket.data.catalog import Subject
from dreamfusion.pocket.training.card import ATTRIBUTION, CARD_FILE, attribution, credited, write_card

SEEN = {"images": 10, "proxy_images": 20}


def subject(name, creator="Ann"):
    return Subject(name, (), "", creator, "CC-BY 3.0", "cups.sh3f", title=name, length=10.0)


def written(folder, subjects, start=""):
    names = [s.name for s in subjects]
    write_card(folder, SEEN, {900: 0.01}, subjects=subjects, names=names, views=8, parameters=1000, voxels=16,
               prompts=["a cup"], start=start)  # fmt: skip
    return (folder / CARD_FILE).read_text(), credited(folder)


def test_the_models_of_the_start_weights_are_credited_through_several_trainings(tmp_path):
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    _, cups = written(first, [subject("cup")])
    card, jugs = written(second, [subject("jug", "Bob")], start=cups)
    assert "began\n  from other weights" in card
    assert "- Bob: jug" in jugs and "- Ann: cup" in jugs.partition("began from other weights")[2]
    _, pots = written(third, [subject("pot", "Cy")], start=jugs)
    assert all(f"- {line}" in pots for line in ("Cy: pot", "Bob: jug", "Ann: cup"))


@pytest.mark.parametrize("start", ["", attribution([subject("cup")])])
def test_no_model_is_listed_twice(tmp_path, start):
    card, credits = written(tmp_path, [subject("cup"), subject("jug", "Bob")], start=start)
    assert credits == attribution([subject("cup"), subject("jug", "Bob")])
    assert "other weights" not in card


def test_a_folder_without_a_list_has_no_credits(tmp_path):
    assert credited(None) == credited(tmp_path) == ""
    (tmp_path / ATTRIBUTION).write_text("Zoë: cup", encoding="utf-8")
    assert credited(tmp_path) == "Zoë: cup"
