"""Metadata as comments at the head of text formats."""

import re
from collections.abc import Mapping

from dreamfusion import __version__

FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # in XML 1.0
PLY_LINE = 900  # bytes: readers such as RPly, and Open3D with it, refuse lines of 1024 and more


def comments(metadata: Mapping[str, str]) -> list[str]:
    """A line for each entry; none holds a line break, which would end the comment."""
    lines = [f"dreamfusion {__version__}", *(f"{key}: {value}" for key, value in metadata.items())]
    return [" ".join(line.split()) for line in lines]


def ply_comments(metadata: Mapping[str, str]) -> list[bytes]:
    """Lines of the header of a PLY, which many readers decode as ASCII; a long one is cut."""
    return [b"comment " + line.encode("ascii", "backslashreplace")[:PLY_LINE] for line in comments(metadata)]


def xml_comment(metadata: Mapping[str, str]) -> str:
    """A comment of XML 1.0, which may contain neither two hyphens in a row nor control characters."""
    text = FORBIDDEN.sub("", ", ".join(comments(metadata)))
    return f"<!-- {re.sub('-(?=-)', '- ', text)} -->"
