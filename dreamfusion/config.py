"""What Hydra needs to know of us: output folders named after prompts, and prompts that need no second quoting."""

from __future__ import annotations

import hashlib
import re
import sys
import unicodedata
from collections.abc import Sequence

from omegaconf import OmegaConf


def register() -> None:
    """Make our resolvers known; before Hydra composes."""
    OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)


def run_folder(mode: str, prompt: str | None, now: str) -> str:
    """Where a run writes: a folder of its own for training and sampling; the others write into the run they read."""
    if mode in ("train", "sample"):
        return f"outputs/{mode}/{slug(prompt or 'no prompt')}/{now}"
    return "outputs"


def slug(prompt: str, longest: int = 60) -> str:
    """A folder name for a prompt: "A cat's hat!" -> "a-cats-hat"; never empty, never a path."""
    plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower().replace("'", "")
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    if words and len(words) <= longest:
        return words
    mark = hashlib.sha256(prompt.encode()).hexdigest()[:8]
    return f"{words[: longest - 9].rstrip('-')}-{mark}" if words else f"prompt-{mark}"


def quote_prompt(arguments: Sequence[str]) -> list[str]:
    """Quote the value of `prompt=` for Hydra's grammar, so that commas, quotes and parentheses are just text.

    Not in a multirun, where a comma between prompts means one run each; there the user quotes.
    """
    if {"-m", "--multirun"} & set(arguments):
        return list(arguments)
    return [_quoted(a) if a.startswith("prompt=") else a for a in arguments]


def _quoted(argument: str) -> str:
    value = argument.removeprefix("prompt=")
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]
    if not value.strip():
        return argument
    # In a quoted string only the quote itself, the backslashes before it, and interpolations are special.
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', value)
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped).replace("${", "\\${")
    return f'prompt="{escaped}"'


def quote_command_line() -> None:
    """Apply `quote_prompt` to this process's arguments."""
    sys.argv[1:] = quote_prompt(sys.argv[1:])
