"""The page of a leaderboard: methods and their scores, sortable, with the pictures of their runs on a click."""

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from dreamfusion.error import UserError
from dreamfusion.report.curves import GREY
from dreamfusion.report.template import encode_base64, write_html

QUALITY = 80  # of the JPEG of a picture
SIZE = 9.0, 3.0  # of the picture of the curves, in inches of 72 SVG units
LINE = 0.17  # height of a line of its legend
COLORS, DASHES = 10, ("-", "--", ":", "-.")  # of matplotlib, and styles of each ten lines
LONGEST = 170  # characters of it


@dataclass(frozen=True)
class Score:
    """The median over the runs of a method, and its interval, if the runs are enough for one."""

    median: float
    low: float | None = None
    high: float | None = None

    @property
    def text(self) -> str:
        """The median as shown."""
        return f"{self.median:.3g}"

    @property
    def interval(self) -> str:
        """The interval as shown; empty without one."""
        return "" if self.low is None or self.high is None else f"{self.low:.3g} to {self.high:.3g}"

    @property
    def differs(self) -> bool:
        """Of a difference: whether its interval excludes zero."""
        return self.low is not None and self.high is not None and self.low * self.high > 0


@dataclass(frozen=True)
class Shown:
    """One run: a picture as a data URL, and what it shows."""

    picture: str
    caption: str


@dataclass(frozen=True)
class Standing:
    """One row: a method, its scores by name, its runs that have a picture, and the number of those that failed.

    `differences` are those of its scores from the scores of the reference, of which they are empty.
    """

    method: str
    scores: Mapping[str, Score]
    runs: Sequence[Shown]
    failed: int = 0
    differences: Mapping[str, Score] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Line:
    """A score during training."""

    seconds: np.ndarray  # (N,)
    values: np.ndarray  # (N,)


def write_leaderboard(
    standings: Sequence[Standing],
    columns: Sequence[str],
    curves: Mapping[str, Mapping[str, Line]],
    title: str,
    note: str,
    comparison: str,
    path: Path,
) -> None:
    """Write the page to `path`, atomically: one file that needs no network.

    Args:
        curves: score, method -> line.
        note, comparison: what the scores are, and their differences.
    """
    texts = {"title": title, "note": note, "comparison": comparison}
    lines = draw_lines(curves) if any(curves.values()) else ""
    write_html("leaderboard.html", path, **texts, standings=standings, columns=columns, has_model=False, curves=lines)


def draw_lines(curves: Mapping[str, Mapping[str, Line]]) -> str:
    """A chart for each score, side by side, with a line for each method over the seconds of training: SVG."""
    from matplotlib.figure import Figure

    from dreamfusion.report.svg import style, to_svg

    with style():
        width, height = SIZE
        lines_below = len({method for lines in curves.values() for method in lines})
        figure = Figure(figsize=(width, height + LINE * lines_below), layout="constrained")
        charts = figure.subplots(1, len(curves), squeeze=False)[0]
        places = {
            method: place for place, method in enumerate(dict.fromkeys(m for part in curves.values() for m in part))
        }
        drawn = {}
        for axes, (score, lines) in zip(charts, curves.items(), strict=True):
            for method, line in lines.items():
                row, color = divmod(places[method], COLORS)
                look = {"color": f"C{color}", "linestyle": DASHES[row % len(DASHES)], "marker": "o", "markersize": 2.5}
                (drawn[method],) = axes.plot(line.seconds, line.values, linewidth=1.5, **look)
            axes.set_title(score.replace("/", " ").replace("_", " "), color=GREY)
            axes.set_xlabel("seconds of training", color=GREY)
            axes.grid(color=GREY, alpha=0.25, linewidth=0.6)
            axes.tick_params(colors=GREY)
            axes.spines[:].set_color(GREY)
        names = [textwrap.shorten(method, LONGEST, placeholder=" ...") for method in drawn]
        look = {"fontsize": 7, "labelcolor": GREY, "frameon": False}
        legend = figure.legend(list(drawn.values()), names, loc="outside lower left", **look)
        for text in legend.get_texts():
            text.set_parse_math(False)  # a setting may contain $
        svg = to_svg(figure)
    return svg.replace(GREY, "currentColor")


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
