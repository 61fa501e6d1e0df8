"""Quote text settings on the command line, so that prompts need no second pair of quotes. Does not import torch."""

import re
import sys
from collections.abc import Sequence

_QUOTED = re.compile(r"""(['"])(?:(?!\1)[^\\]|\\.)*\1""", re.DOTALL)  # a quoted string in Hydra's grammar
TEXTS = ("prompt=", "checkpoint=", "start=", "prompts.file=", "run=")  # settings whose value is free text


def quote_texts(arguments: Sequence[str]) -> list[str]:
    """Quote the values of TEXTS for Hydra's grammar, so that commas, quotes and parentheses are literal.

    Leaves quoted values unchanged. In a multirun, where commas separate values, the user must quote.
    """
    if {"-m", "--multirun"} & set(arguments):
        return list(arguments)
    return [_quoted(argument) for argument in arguments]


def _quoted(argument: str) -> str:
    key = next((key for key in TEXTS if argument.startswith(key)), None)
    value = argument.removeprefix(key or "")
    if (
        key is None
        or not value.strip()
        or argument in ("checkpoint=null", "start=null", "run=null")
        or _QUOTED.fullmatch(value)
    ):
        return argument
    # In a quoted string, only the quote, backslashes before it, and interpolations are special.
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', value)
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    escaped = re.sub(r"(\\*)\$\{", r"\1\1\\${", escaped)
    return f'{key}"{escaped}"'


def quote_command_line() -> None:
    """Apply `quote_texts` to `sys.argv`."""
    sys.argv[1:] = quote_texts(sys.argv[1:])
