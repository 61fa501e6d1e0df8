"""Metadata at the head of text formats, as their readers take it."""

from xml.etree import ElementTree

import pytest

from dreamfusion import __version__
from dreamfusion.export.comments import PLY_LINE, comments, ply_comments, xml_comment


def test_a_line_break_does_not_end_a_comment():
    assert comments({"prompt": "a\ncat  on\ta mat"}) == [f"dreamfusion {__version__}", "prompt: a cat on a mat"]


def test_the_header_of_a_ply_is_short_ascii():
    prompt, long = ply_comments({"prompt": "eine süße Katze ☃", "other": "é" * 2000})[1:]
    assert prompt == rb"comment prompt: eine s\xfc\xdfe Katze \u2603"
    assert long.isascii() and len(long) == len("comment ") + PLY_LINE


@pytest.mark.parametrize("prompt", ["a cat --- a dog", "a --> b", "ends with -", "a cat\x07", "<b>&amp;</b>", "-----"])
def test_any_prompt_is_a_comment_of_xml(prompt):
    ElementTree.fromstring(f"{xml_comment({'prompt': prompt})}<robot/>")
