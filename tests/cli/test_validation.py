"""A setting must have the type of its default in the YAML file."""

import pytest

from dreamfusion.cli.validation import compare
from dreamfusion.error import UserError


@pytest.mark.parametrize(
    ("default", "given"),
    [
        (256, 64), (0.5, 1), (0.5, [[0.0, 1.0], [1.0, 2.0]]), (True, False), ("auto", 3.5), (None, "x"), ([1, 2], 3),
        ({"a": 1}, {"a": 2, "b": "x"}), ({}, 3),
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
        (True, "perhaps", "x.y is perhaps; it must be true or false: type x.y=true"),
        (False, 0, "x.y is 0; it must be true or false: type x.y=false"),
        ({"a": {"b": 1}}, {"a": {"b": "c"}}, "x.y.a.b is c; it must be a whole number: type x.y.a.b=1"),
        ({"a": 1}, 3, "x.y is 3; it must be a group of settings, such as x.y.a=..."),
    ],
)
def test_a_value_of_another_type_is_refused_with_an_example(default, given, message):
    with pytest.raises(UserError) as refused:
        compare("x.y", default, given)
    assert str(refused.value).startswith(message)


def test_the_size_of_a_view_may_be_a_schedule():
    compare("camera.size", 64, [[0.0, 32], [1.0, 64]])
