"""Foreign text in Markdown files."""

import re

MEANING = re.compile(r"[\\`*\[\]|~]|(?<!\w)_|_(?!\w)")


def inert(text: str, longest: int | None = None) -> str:
    """Text, at most `longest` characters, without meaning in Markdown: no HTML, link, code, emphasis, row or column."""
    short = text if longest is None or len(text) <= longest else text[: longest - 1] + "…"
    return " ".join(MEANING.sub(r"\\\g<0>", short).replace("&", "&amp;").replace("<", "&lt;").split())
