from functools import partial

import pytest
import torch
from omegaconf import OmegaConf
from options import option

from dreamfusion.error import UserError
from dreamfusion.guidance.prior import empty_branch
from dreamfusion.prompting.table import TextTable
from dreamfusion.prompting.view_dependent import VIEWS
from dreamfusion.runs.check import check_prompt
from dreamfusion.types import Cameras, TextEmbedding

plain, view_dependent = partial(option, "prompting/plain"), partial(option, "prompting/view_dependent")


class LetterPrior:
    """Encodes a text as its position in the call, and records the texts."""

    def __init__(self):
        self.texts, self.checked = [], []

    def warn_if_unknown(self, prompt):
        self.checked.append(prompt)

    def encode_text(self, texts):
        self.texts = list(texts)
        return TextEmbedding(torch.arange(len(texts) * 1.0).view(-1, 1, 1), torch.ones(len(texts), 1, dtype=torch.bool))


def cameras(azimuth, elevation):
    b = len(azimuth)
    return Cameras(
        camera_to_world=torch.zeros(b, 3, 4),
        fov=torch.full((b,), 40.0),
        azimuth=torch.tensor(azimuth, dtype=torch.float32),
        elevation=torch.tensor(elevation, dtype=torch.float32),
        distance=torch.full((b,), 3.0),
        light=torch.zeros(b, 3),
        height=8,
        width=8,
    )


@pytest.mark.parametrize(
    ("azimuth", "view"),
    [
        (0, "front"), (44.9, "front"), (45, "side"), (90, "side"), (135, "side"), (135.1, "back"), (180, "back"),
        (224.9, "back"), (225, "side"), (270, "side"), (315, "side"), (315.1, "front"), (360, "front"),
        (-44.9, "front"), (-45, "side"), (-135.1, "back"), (-180, "back"), (720 + 10, "front"), (-720 - 170, "back"),
    ],
)  # fmt: skip
def test_the_view_follows_the_azimuth_modulo_360(azimuth, view):
    assert VIEWS[view_dependent().view(cameras([azimuth], [0]))] == view


@pytest.mark.parametrize(("elevation", "overhead"), [(60, False), (60.1, True), (90, True), (-80, False)])
@pytest.mark.parametrize("azimuth", [0, 90, 180])
def test_above_sixty_degrees_every_azimuth_is_overhead(azimuth, elevation, overhead):
    view = VIEWS[view_dependent().view(cameras([azimuth], [elevation]))]
    assert (view == "overhead") is overhead


def test_each_view_gets_its_text_and_all_get_the_negative():
    prompting, prior = view_dependent(negative="blurry"), LetterPrior()
    table = prompting.encode(prior, "a cat")
    assert prior.texts == [
        "a cat, front view",
        "a cat, side view",
        "a cat, back view",
        "a cat, overhead view",
        "blurry",
        "",
    ]
    assert prior.checked == ["a cat"]
    views = cameras([180, 0, 90, 0], [0, 0, 0, 80])
    conditioning = prompting.condition(table, views)
    assert conditioning.text.states.flatten().tolist() == [2, 0, 1, 3]
    assert conditioning.negative.states.flatten().tolist() == [4, 4, 4, 4]
    assert conditioning.cameras is views


def test_the_empty_text_stays_beside_a_negative_prompt():
    """CSD and NFSD predict it as well, see `empty_branch`."""
    for prompting, place in ((view_dependent(negative="blurry"), 5), (view_dependent(negative={"back": "face"}), 8)):
        conditioning = prompting.condition(prompting.encode(LetterPrior(), "a cat"), cameras([180, 0], [0, 0]))
        assert conditioning.empty.states.flatten().tolist() == [place, place]
        assert empty_branch(conditioning).text.states.flatten().tolist() == [place, place]
    plainly = view_dependent()
    conditioning = plainly.condition(plainly.encode(LetterPrior(), "a cat"), cameras([180, 0], [0, 0]))
    assert conditioning.empty is None
    assert empty_branch(conditioning).text.states.flatten().tolist() == [4, 4]


def test_a_table_has_one_negative_text_or_one_for_each_text():
    def texts(count):
        return TextEmbedding(torch.zeros(count, 1, 1), torch.ones(count, 1, dtype=torch.bool))

    assert [len(TextTable(texts(4), texts(count)).negative) for count in (1, 4)] == [1, 4]
    with pytest.raises(ValueError, match=r"TextTable\.negative holds 2 texts, expected 1 or 4"):
        TextTable(texts(4), texts(2))


def test_the_default_negative_is_the_empty_text():
    prior = LetterPrior()
    view_dependent().encode(prior, "a cat")
    assert prior.texts[-1] == ""


def test_plain_prompting_has_one_text_for_all_views():
    prompting, prior = plain(), LetterPrior()
    table = prompting.encode(prior, " a cat ")
    assert prior.texts == ["a cat", ""]
    conditioning = prompting.condition(table, cameras([0, 180], [0, 80]))
    assert conditioning.text.states.flatten().tolist() == [0, 0]
    assert conditioning.negative.states.flatten().tolist() == [1, 1]


def test_templates_come_from_the_configuration_and_braces_in_a_prompt_are_harmless():
    templates = OmegaConf.create({view: f"{view} of {{prompt}}" for view in VIEWS})
    assert view_dependent(templates=templates).texts("a {cat}")[0] == "front of a {cat}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"negative": {"below": "x"}},
            r"negative is for \['below'\], expected a text, or texts for front, side, back, ov",
        ),
        ({"front": 140.0}, "front is 140.0 and back is 135.0 degrees"),
        ({"templates": {"below": "{prompt}"}}, "expected one for each of front, side, back, overhead"),
        ({"templates": dict.fromkeys(VIEWS, "a cat")}, r"front view is \"a cat\", expected \{prompt\}"),
    ],
)
def test_bad_options_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        view_dependent(**changes)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (None, 'there is no prompt; type prompt="a cat"'),
        ("  ", 'there is no prompt; type prompt="a cat"'),
        ("x" * 2001, "the prompt has 2001 characters; at most 2000 are allowed"),
        ("\udcff", "not valid UTF-8; set the terminal"),
    ],
)
def test_an_invalid_prompt_raises_with_what_to_type(prompt, message):
    with pytest.raises(UserError, match=message):
        check_prompt(prompt)


@pytest.mark.parametrize("prompting", [plain, view_dependent])
def test_a_negative_prompt_that_hydra_reads_as_a_number_is_a_text(prompting):
    prior = LetterPrior()
    prompting(negative=3).encode(prior, "a cat")
    assert prior.texts[-2:] == ["3", ""]  # the empty text last


def test_each_view_can_have_its_own_negative_text():
    prompting, prior = view_dependent(negative={"back": "face, eyes", "front": "tail"}), LetterPrior()
    table = prompting.encode(prior, "a cat")
    assert prior.texts[4:] == ["tail", "", "face, eyes", "", ""]  # the empty text last
    conditioning = prompting.condition(table, cameras([180, 0, 90, 0], [0, 0, 0, 80]))
    assert conditioning.negative.states.flatten().tolist() == [6, 4, 5, 7]
