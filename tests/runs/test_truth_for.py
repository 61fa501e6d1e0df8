"""What the prompt of a run means depends on its prior: on how it reads, and on which model it shows."""

import pytest
from omegaconf import OmegaConf

from dreamfusion.runs.evaluate import truth_for
from dreamfusion.truth.store import find_truth


def run_of(prompt, choice="pocket", **changes):
    from options import CONF

    guidance = OmegaConf.merge(OmegaConf.load(CONF / "guidance" / f"{choice}.yaml"), changes)
    return OmegaConf.create({"prompt": prompt, "seed": 0, "guidance": guidance})


@pytest.mark.parametrize("prompt", ["a cat", "kittens", "a feline animal, studio light"])
def test_words_for_one_model_have_one_truth(prompt):
    assert truth_for(run_of(prompt)) is find_truth("a cat")


@pytest.mark.parametrize(
    ("prompt", "variant"), [("a red cat", 0), ("a golden teapot", 0), ("a dragon", 0), ("a zebra", 0), ("a chair", 1)]
)
def test_what_is_not_the_known_model_as_it_is_has_none(prompt, variant):
    assert truth_for(run_of(prompt, variant=variant)) is None


def test_several_objects_stand_where_the_prior_puts_them():
    truth = truth_for(run_of("a cat on a chair"))
    cat, chair = truth.about["parts"]
    assert (truth.name, cat["name"], chair["name"]) == ("cat, chair", "cat", "chair")
    assert cat["centre"][1] > chair["centre"][1] and cat["scale"] < chair["scale"]
    assert truth_for(run_of("a cat on a red chair")) is None


def test_a_random_variant_has_a_truth_where_it_is_the_first():
    found = [truth_for(run_of("a chair", variant="random", variant_seed=seed)) for seed in range(3)]
    assert {None, find_truth("a chair")} == set(found)


def test_without_the_weights_of_the_run_the_name_counts(tmp_path):
    assert truth_for(run_of("a cat", weights=str(tmp_path / "gone"))) is find_truth("a cat")
    assert truth_for(run_of("a kitten", weights=str(tmp_path / "gone"))) is None


def test_other_priors_are_not_loaded_for_it():
    assert truth_for(run_of("a cat", "sd")) is find_truth("a cat")
    assert truth_for(run_of("a kitten", "sd")) is None
