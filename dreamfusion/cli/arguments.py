"""Read the command line as it is typed: Hydra's options in any order, and settings with one `=`, two dashes or no key.

Does not import torch.
"""

import re
from collections.abc import Sequence
from itertools import takewhile

from hydra._internal.utils import get_args_parser

from dreamfusion.cli.quoting import QUOTED
from dreamfusion.cli.spelling import options_of, quoted_value, settings_of
from dreamfusion.error import UserError

MULTIRUN = {"-m", "--multirun"}
DASHES = re.compile("^[\u2012-\u2015]{1,2}(?=[a-z])")  # of a text processor or a web page, in place of two hyphens
SEVERAL = re.compile(r",(?=\S)(?<!\d,(?=\d))")  # English has a space after a comma, except within a number


def understood(arguments: Sequence[str]) -> list[str]:
    """Hydra's options, then the settings as key=value.

    `--key value`, `--key=value`, `key = value` and `key==value` are settings, and words without a key are the rest of
    the prompt, or all of it.

    Raises:
        UserError: a word is the name of a mode or of a setting, or a prompt without -m is several prompts.
    """
    values = {name: action.nargs for action in get_args_parser()._actions for name in action.option_strings}
    options: list[str] = []
    settings: list[str] = []
    waiting = _joined([DASHES.sub("--", argument) for argument in arguments])
    while waiting:
        argument = waiting.pop(0)
        name, equals, _ = argument.partition("=")
        follows = bool(waiting) and "=" not in waiting[0] and not waiting[0].startswith("-")
        key = name.removeprefix("--")
        if name in values or (name.startswith("-") and not name.startswith("--")):
            options.append(argument)
            if not equals and waiting and (values.get(name, 0) is None or (values.get(name) == "?" and follows)):
                options.append(waiting.pop(0))
        elif name.startswith("--") and (equals or follows or (waiting and key in settings_of())):
            settings.append(f"{key}={argument.partition('=')[2] if equals else waiting.pop(0)}")
        elif name.startswith("--"):
            options.append(argument)  # unknown, or short for one of Hydra's
        elif equals or name.startswith(("~", "+")):
            settings.append(argument)
        else:
            words = list(takewhile(lambda word: "=" not in word and not word.startswith("-"), waiting))
            value = " ".join(words if name == "prompt" else words[:1])
            _add_word(argument, settings, value or "VALUE")
    if not MULTIRUN & set(options):
        _check_one_prompt(settings)
    return [*options, *settings]


def _joined(arguments: Sequence[str]) -> list[str]:
    """The arguments without spaces around the = of a setting, or a second = after it."""
    joined: list[str] = []
    for argument in arguments:
        before = joined[-1].removeprefix("--") if joined else ""
        key, equals, value = before.partition("=")
        opens, closes = argument.startswith("=") and not equals, bool(equals and not value) and argument[:1].isalnum()
        if key in settings_of() and (opens or (closes and "=" not in argument)):
            joined[-1] += argument
        else:
            joined.append(argument)
    return [re.sub(r"^((?!(?:--)?prompt=)[\w.-]+=)=", r"\1", argument) for argument in joined]


def _add_word(word: str, settings: list[str], value: str) -> None:
    """Add a word without a key to the prompt, if it follows the prompt or there is none; `value` may be the word's.

    Raises: UserError: the word is the name of a mode or of a setting, or one with a colon for its =.
    """
    key, colon, rest = word.partition(":")
    if colon and key in settings_of() and rest[0:1].strip():
        raise UserError(f"{word} has a : where a setting has its =; type {key}={quoted_value(rest)}")
    if settings and settings[-1].startswith("prompt="):
        settings[-1] += f" {word}"
    elif word in options_of("mode"):
        raise UserError(f"{word} is a mode; type mode={word}")
    elif word in settings_of():
        raise UserError(f"{word} is a setting; type {word}={quoted_value(value)}")
    elif not any(setting.startswith("prompt=") for setting in settings):
        settings.append(f"prompt={word}")
    else:
        settings.append(word)  # Hydra refuses it, with the key=value that it expects


def _check_one_prompt(settings: Sequence[str]) -> None:
    """Raises: UserError: a prompt has a comma without a space, as a shell leaves of prompt="a cat","a dog"."""
    for setting in settings:
        key, _, value = setting.partition("=")
        if key == "prompt" and SEVERAL.search(value) and not QUOTED.fullmatch(value):
            raise UserError(
                f"prompt={value} has a comma without a space; add -m for one run of each prompt, or type the space for "
                "one prompt with a comma"
            )
