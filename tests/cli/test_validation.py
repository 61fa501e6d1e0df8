"""A setting must have the type of the parameter that it becomes, or else of its default in the YAML file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from dreamfusion.cli.validation import check_groups, compare, fits, phrase
from dreamfusion.error import UserError
from dreamfusion.schedule import ScheduleLike

LOGGER = "dreamfusion.training.loggers.wandb"
ORBIT = {"_target_": "dreamfusion.camera.orbit.Orbit", "size": 64, "up_std": 0.0, "elevation": [-15, 75]}


@pytest.mark.parametrize(
    ("default", "given"),
    [
        (256, 64), (0.5, 1), (True, False), ("auto", 3.5), (None, "x"), ([1, 2], 3),
        ({"a": 1}, {"a": 2, "b": "x"}), ({}, {"a": 1}), (ORBIT, ORBIT | {"size": [[0.0, 32], [1.0, 64]]}),
    ],
)  # fmt: skip
def test_a_value_of_the_defaults_type_passes(default, given):
    compare("x.y", default, given)


@pytest.mark.parametrize(
    ("default", "given", "message"),
    [
        (256, "abc", "x.y is abc; it must be a whole number: type x.y=256"),
        (256, 64.5, "x.y is 64.5; it must be a whole number"),
        (256, None, "x.y is null; it must be a whole number"),
        (256, True, "x.y is True; it must be a whole number"),
        (256, [1, 2], "x.y is [1, 2]; it must be a whole number"),
        (0.5, "abc", "x.y is abc; it must be a number: type x.y=0.5"),
        (0.5, float("nan"), "x.y is nan; it must be a number"),
        (0.5, False, "x.y is False; it must be a number"),
        (0.5, [1, 2], "x.y is [1, 2]; it must be a number"),
        (True, "perhaps", "x.y is perhaps; it must be true or false: type x.y=true"),
        (False, 0, "x.y is 0; it must be true or false: type x.y=false"),
        ({"a": {"b": 1}}, {"a": {"b": "c"}}, "x.y.a.b is c; it must be a whole number: type x.y.a.b=1"),
        ({"a": 1}, 3, "x.y is 3; it must be a group of settings, such as x.y.a=..."),
        (ORBIT, ORBIT | {"up_std": [1, 2]}, "x.y.up_std is [1, 2]; it must be a number: type x.y.up_std=0.0"),
        (ORBIT, ORBIT | {"elevation": None}, "x.y.elevation is null; it must be a list of numbers: type x.y.elevation"),
        (ORBIT, ORBIT | {"views": "a"}, "x.y.views is a; it must be a whole number"),  # without a default
        (ORBIT, ORBIT | {"size": "a"}, "x.y.size is a; it must be a number or a list of lists: type x.y.size=64"),
    ],
)
def test_a_value_of_another_type_is_refused_with_an_example(default, given, message):
    with pytest.raises(UserError) as refused:
        compare("x.y", default, given)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(("given", "typed"), [(7, "7"), (1e3, "1000.0"), (True, "true")])
def test_a_number_for_a_text_is_refused_with_the_text_to_type(given, typed):
    logger = {"_target_": LOGGER, "project": "dreamfusion"}
    with pytest.raises(
        UserError, match=f"""^logger.project is .*; it must be text: type 'logger.project="{typed}"'$"""
    ):
        compare("logger", logger, logger | {"project": given})


@pytest.mark.parametrize("given", [3, ["a"], {"a": "b"}, True])
@pytest.mark.parametrize("name", ["prompt", "checkpoint", "study", "run", "prompts.file"])
def test_settings_of_the_run_are_text_or_null(name, given):
    with pytest.raises(UserError, match=f"^{name} is .*; it must be text or null"):
        top, _, key = name.partition(".")
        compare("", {top: {key: None} if key else None}, {top: {key: given} if key else given})


@pytest.mark.parametrize("given", [1e308, [1, 2], {"a": 1}])
def test_an_objective_is_a_name_or_a_list_of_names(given):
    with pytest.raises(UserError, match=r"^objective is .*; it must be text or a list of texts or null"):
        compare("", {"objective": None}, {"objective": given})


@pytest.mark.parametrize(
    ("annotation", "fitting", "refused", "words"),
    [
        (str | None, ["", None], [3, ["a"]], "text or null"),
        (str | Path | None, ["a", None], [3], "text or null"),
        (Sequence[str], [[], ["a"]], ["a", [1], None], "a list of texts"),
        (ScheduleLike, [1, [[0, 1.0]], {"_target_": "mine"}], [None, "a", [1]], "a number or a list of lists"),
        (tuple[int, int] | None, [None, [1, 2]], [1, [1.5]], "a list of whole numbers or null"),
        (Mapping[str, float], [{"a": 1}], [{"a": "b"}, None], "a group of settings"),
        (Path, ["a"], [None, 1], "text"),
        (ValueError, [3, "a", {}], [None], "set"),  # a class that Hydra builds, or a converter reads
    ],
)
def test_the_annotation_decides(annotation, fitting, refused, words):
    assert all(fits(value, annotation) for value in fitting)
    assert not any(fits(value, annotation) for value in refused)
    assert phrase(annotation) == words


@pytest.mark.parametrize("value", ["null", "3", "1.5", "true", "{a: 1}"])
@pytest.mark.parametrize("group", ["mode", "camera", "experiment"])
def test_a_group_needs_the_name_of_an_option(group, value):
    first = {"mode": "benchmark", "camera": "multiview", "experiment": "dreamgaussian"}[group]
    with pytest.raises(UserError, match=rf"^{group}=.* names no option; .* type one of {first}, "):
        check_groups(["prompt=a cat", f"{group}={value}"])


def test_other_arguments_are_left_to_hydra():
    check_groups(["camera=orbit,paper", "camera=[orbit,paper]", "+camera=paper", "~camera", "=3", "-m", "hydra=null"])
