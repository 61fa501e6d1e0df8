"""Quote text settings on the command line, so that no text needs a second pair of quotes. Does not import torch.

A setting of TEXTS is text although it looks like a number, and one of FREE whatever it contains. Any other value is
quoted only where Hydra's grammar cannot read it, as a path with parentheses, or reads several texts outside of a
multirun.
"""

import re
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, QuotedString, Sweep
from hydra.errors import HydraException

from dreamfusion.paths import CONFIGURATION
from dreamfusion.untrusted import escaped

# A quoted string in Hydra's grammar, and an item of a list in a multirun.
QUOTED = re.compile(r"""(?P<quote>['"])(?:(?!(?P=quote))[^\\]|\\.)*(?P=quote)""", re.DOTALL)
_ITEM = re.compile(rf"\s*(?:(?P<quoted>{QUOTED.pattern})|(?P<text>[^,]+?))\s*(?:,|$)", re.DOTALL)
FREE = ("prompt", "image", "checkpoint", "start", "config", "prompts.file", "run", "study")  # null, or free text
TEXTS = (
    *FREE,
    *("hydra.run.dir", "hydra.sweep.dir"),
    *("benchmark.baselines", "distillation.annealing", "distillation.sampling", "distillation.weighting"),
    *("field.precision", "guidance.checkpoint", "guidance.dtype", "guidance.model", "guidance.revision"),
    *(
        "guidance.prediction",
        "guidance.vae",
        "guidance.vae_dtype",
        "guidance.weighting",
        "guidance.weights",
        "logger.group",
    ),
    *("logger.project", "mode.captions", "mode.clip", "mode.folder", "mode.host", "mode.image_reward", "mode.json"),
    *("mode.light", "mode.mode.folder", "mode.names", "mode.output", "mode.precision", "mode.reference"),
    *("mode.renders", "mode.space", "mode.start", "mode.title", "prompting.negative", "reference.depth"),
    *("reference.normal", "trainer.accelerator", "watchdog.answer"),
)


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
    parsed = _parsed(argument)
    if parsed is not None and _is_right(parsed, several):
        return argument
    items = [value]
    if several:
        items = [item["quoted"] or item["text"] for item in _ITEM.finditer(value)]
    quoted = f"{key}={','.join(_item(key, item) for item in items if item.strip())}"
    return argument if _parsed(quoted) is None else quoted


def _item(key: str, value: str) -> str:
    """A text in quotes, unless it has them or is null."""
    is_null = value.strip() == "null" and key != "prompt"
    return value if is_null or QUOTED.fullmatch(value) else _literal(value, key in FREE)


def _parsed(argument: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        return None


def _is_right(override: Override, several: bool) -> bool:
    """Whether Hydra reads what is meant: no number of a text, no resolver in a free one, no runs without a multirun."""
    key, value = override.key_or_group, override.value()
    read: list[object] = [value]
    if isinstance(value, ChoiceSweep) and value.simple_form:
        read = [*value.list]
        runs = not several and any(isinstance(one, str | QuotedString) for one in read)
        if runs and not (CONFIGURATION / key).is_dir():
            return False
    elif several and isinstance(value, Sweep):  # choice(...), range(...)
        return True
    if key in FREE:
        return False
    return key not in TEXTS or not any(isinstance(one, bool | int | float) for one in read)


def _literal(value: str, free: bool) -> str:
    """The value in double quotes; the interpolations of a free text are text, too."""
    # In a quoted string, only the quote, backslashes before it, and interpolations are special.
    written = re.sub(r'(\\*)"', r'\1\1\\"', value)
    written = re.sub(r"(\\+)$", r"\1\1", written)
    return f'"{escaped(written) if free else written}"'
