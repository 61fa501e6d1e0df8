"""The page of a leaderboard: methods and their scores, sortable, with the pictures of their runs on a click."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dreamfusion.error import UserError
from dreamfusion.report.template import encode_base64, write_html

QUALITY = 80  # of the JPEG of a picture


@dataclass(frozen=True)
class Score:
    """The median over the runs of a method, and its interval."""

    median: float
    low: float
    high: float

    @property
    def text(self) -> str:
        """The median as shown."""
        return f"{self.median:.3g}"

    @property
    def interval(self) -> str:
        """The interval as shown."""
        return f"{self.low:.3g} to {self.high:.3g}"


@dataclass(frozen=True)
class Shown:
    """One run: a picture as a data URL, and what it shows."""

    picture: str
    caption: str


@dataclass(frozen=True)
class Standing:
    """One row: a method, its scores by name, and its runs that have a picture."""

    method: str
    scores: Mapping[str, Score]
    runs: Sequence[Shown]


def write_leaderboard(standings: Sequence[Standing], columns: Sequence[str], title: str, note: str, path: Path) -> None:
    """Write the page to `path`, atomically: one file that needs no network."""
    write_html("leaderboard.html", path, title=title, note=note, standings=standings, columns=columns, has_model=False)


def as_jpeg(picture: Path) -> str:
    """A picture file as the data URL of a JPEG.

    Raises:
        UserError: it cannot be read, or has too many pixels.
    """
    file = io.BytesIO()
    try:
        with Image.open(picture) as image:
            image.convert("RGB").save(file, "JPEG", quality=QUALITY)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # SyntaxError: a broken PNG
        raise UserError(f"{picture} is not a picture ({type(error).__name__}); mode=evaluate makes it again") from error
    return f"data:image/jpeg;base64,{encode_base64(file.getvalue())}"
