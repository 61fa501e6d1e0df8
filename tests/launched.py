"""Shared by the tests of the modes: a difficult prompt, and the result of a command."""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROMPT = """a cat's "${hat}", (🐈) = ../../<b>x</b>\\"""
SLUG = "a-cats-hat-b-x-b"


@dataclass(frozen=True)
class Ended:
    """How a command ended and what it said."""

    status: object
    text: str


@dataclass(frozen=True)
class Finished:
    """A smoke run: the folder it was typed in, the run's own, and what was printed."""

    folder: Path
    run: Path
    text: str


def files(folder):
    """Everything under a folder, as relative paths."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
