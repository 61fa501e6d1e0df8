"""Quote text settings on the command line, so that no text needs a second pair of quotes. Does not import torch.

Values of TEXTS are text whatever they contain. Any other value is quoted only where Hydra's grammar cannot read it, as
a path with parentheses, or reads several texts outside of a multirun.
"""

import re
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, QuotedString
from hydra.errors import HydraException

from dreamfusion.paths import CONFIGURATION

# A quoted string in Hydra's grammar, and an item of a list in a multirun.
QUOTED = re.compile(r"""(?P<quote>['"])(?:(?!(?P=quote))[^\\]|\\.)*(?P=quote)""", re.DOTALL)
_ITEM = re.compile(rf"\s*(?:(?P<quoted>{QUOTED.pattern})|(?P<text>[^,]+?))\s*(?:,|$)", re.DOTALL)
TEXTS = ("prompt", "checkpoint", "start", "config", "prompts.file", "run", "study")  # null, or free text


def quote_texts(arguments: Sequence[str]) -> list[str]:
    """Quote texts for Hydra's grammar, so that commas, quotes and parentheses are literal.

    Leaves quoted values unchanged. In a multirun commas separate values, and a text with a comma must be quoted.
    """
    several = bool({"-m", "--multirun"} & set(arguments))
    return [_quoted(argument, several) for argument in arguments]


def _quoted(argument: str, several: bool) -> str:
    key, equals, value = argument.partition("=")
    if not equals or key.startswith(("-", "~")) or not value.strip():
        return argument
    free = key in TEXTS
    if free and not several:
        whole = (value == "null" and key != "prompt") or QUOTED.fullmatch(value)
        return argument if whole else f"{key}={_literal(value, free)}"
    parsed = _parsed(argument)
    if parsed is not None and (several or not _are_texts(parsed)):
        return argument
    items = list(_ITEM.finditer(value)) if several else []
    texts = [item["quoted"] or _literal(item["text"], free) for item in items] or [_literal(value, free)]
    quoted = f"{key}={','.join(texts)}"
    return argument if _parsed(quoted) is None else quoted


def _parsed(argument: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        return None


def _are_texts(override: Override) -> bool:
    """Whether Hydra reads values for a multirun, some of them text, of a setting (not options of a group)."""
    sweep = override.value()
    if not isinstance(sweep, ChoiceSweep) or (CONFIGURATION / override.key_or_group).is_dir():
        return False
    return any(isinstance(value, str | QuotedString) for value in sweep.list)


def _literal(value: str, free: bool) -> str:
    """The value in double quotes; the interpolations of a free text are text, too."""
    # In a quoted string, only the quote, backslashes before it, and interpolations are special.
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', value)
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    escaped = re.sub(r"(\\*)\$\{", r"\1\1\\${", escaped) if free else escaped
    return f'"{escaped}"'
