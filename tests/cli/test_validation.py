"""A setting is of the kind that its option's file has."""

import pytest

from dreamfusion.cli.validation import compare
from dreamfusion.error import UserError


@pytest.mark.parametrize(
    ("own", "given"),
    [
        (256, 64), (0.5, 1), (0.5, [[0.0, 1.0], [1.0, 2.0]]), (True, False), ("auto", 3.5), (None, "x"), ([1, 2], 3),
        ({"a": 1}, {"a": 2, "b": "x"}), ({}, 3),
    ],
)  # fmt: skip
def test_what_is_of_the_kind_of_the_file_passes(own, given):
    compare("x.y", own, given)


@pytest.mark.parametrize(
    ("own", "given", "message"),
    [
        (256, "abc", "x.y is abc; it is a whole number: type x.y=256"),
        (256, 64.5, "x.y is 64.5; it is a whole number"),
        (256, None, "x.y is null; it is a whole number"),
        (256, True, "x.y is True; it is a whole number"),
        (256, [1, 2], "x.y is [1, 2]; it is a whole number"),
        (0.5, "abc", "x.y is abc; it is a number: type x.y=0.5"),
        (0.5, float("nan"), "x.y is nan; it is a number"),
        (0.5, False, "x.y is False; it is a number"),
        (True, "perhaps", "x.y is perhaps; it is true or false: type x.y=true"),
        (False, 0, "x.y is 0; it is true or false: type x.y=false"),
        ({"a": {"b": 1}}, {"a": {"b": "c"}}, "x.y.a.b is c; it is a whole number: type x.y.a.b=1"),
        ({"a": 1}, 3, "x.y is 3; it is a group of settings, such as x.y.a=..."),
    ],
)
def test_what_is_of_another_kind_is_named_with_what_to_type(own, given, message):
    with pytest.raises(UserError) as refused:
        compare("x.y", own, given)
    assert str(refused.value).startswith(message)


def test_the_size_of_a_view_may_be_a_schedule():
    compare("camera.size", 64, [[0.0, 32], [1.0, 64]])
