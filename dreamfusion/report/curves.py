"""The curves of a run: small SVG charts of the metrics in a CSV file, as Lightning's CSVLogger writes it."""

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS = 160  # most points of a drawn line; a longer curve is drawn as mean and range of bins
LOGARITHMIC_FROM = 100.0  # ratio of the largest to the smallest value above which the axis is logarithmic
SIZE = 4.0, 1.9  # of a chart, in inches of 72 SVG units
AXES_BOX = 0.13, 0.14, 0.83, 0.82  # left, bottom, width and height of the axes, shares of the chart
ACCENT, GREY = "#4b46d6", "#6d6962"  # of the line and of axes and labels; replaced by the colours of the page
SHORTEST = 1e-9  # steps that the step axis spans at least
NOT_METRICS = ("step", "epoch")  # columns


@dataclass(frozen=True, eq=False)
class Curve:
    """One metric over the steps of the run: finite values in ascending order of steps."""

    name: str
    steps: np.ndarray  # (N,)
    values: np.ndarray  # (N,)


@dataclass(frozen=True)
class Chart:
    """One metric, drawn."""

    title: str
    logarithmic: bool
    last: str  # the last value
    svg: str
    points: str  # JSON of [x as a share of the chart's width, step, value], for the read-out under the pointer


def read_curves(path: Path) -> list[Curve]:
    """The numeric columns of a CSV file with a header, without cells that are empty, text, nan or inf.

    Steps come from the column `step` or else from the row number. Columns with fewer than two points are left out.
    """
    rows = read_rows(path)
    curves = []
    for name in rows[0] if rows else ():
        points = sorted(_points(rows, name))
        if name not in NOT_METRICS and len(points) >= 2:
            steps, values = np.asarray(points).T
            curves.append(Curve(name, steps, values))
    return curves


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file with a header that have all its columns; empty if there is no file.

    A line is a row: a damaged one, such as a block of zeros, costs its own values only.
    """
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        head, *lines = [_cells(line) for line in file] or [[]]
    return [dict(zip(head, cells, strict=True)) for cells in lines if len(cells) == len(head)]


def _cells(line: str) -> list[str]:
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        return []


def draw_curve(curve: Curve) -> Chart:
    """Draw mean and range of the curve; the value axis is logarithmic if the values span LOGARITHMIC_FROM."""
    from matplotlib.figure import Figure

    from dreamfusion.report.svg import style, to_svg

    steps, low, mean, high = _binned(curve)
    logarithmic = bool(low.min() > 0.0 and high.max() > LOGARITHMIC_FROM * low.min())
    with style():
        figure = Figure(figsize=SIZE)
        axes = figure.add_axes(AXES_BOX)
        _set_axes(axes, steps, logarithmic)
        axes.fill_between(steps, low, high, color=ACCENT, alpha=0.16, linewidth=0.0)
        axes.plot(steps, mean, color=ACCENT, linewidth=1.5, gid="mean")
        svg = to_svg(figure)
    # The colours of the page, light or dark, in place of the fixed ones.
    svg = svg.replace(ACCENT, "var(--accent)").replace(GREY, "currentColor")
    left, _, width, _ = AXES_BOX
    across = left + width * (steps - steps[0]) / max(steps[-1] - steps[0], SHORTEST)
    points = [[round(float(x), 4), _number(s), _number(v)] for x, s, v in zip(across, steps, mean, strict=True)]
    title = curve.name.replace("/", " · ").replace("_", " ")
    return Chart(title, logarithmic, _number(mean[-1]), svg, json.dumps(points, separators=(",", ":"), allow_nan=False))


def _set_axes(axes: "Axes", steps: np.ndarray, logarithmic: bool) -> None:
    """Set scale, limits, three or four ticks and horizontal grid lines."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axes.set_yscale("log" if logarithmic else "linear")
    round_steps = [1, 2, 5, 10]
    axes.yaxis.set_major_locator(LogLocator(numticks=4) if logarithmic else MaxNLocator(3, steps=round_steps))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=round_steps, integer=True))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: _number(value)))
    axes.set_xlim(steps[0], max(steps[-1], steps[0] + SHORTEST))
    axes.tick_params(colors=GREY, length=3.0)
    axes.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.6)
    axes.spines[:].set_color(GREY)


def _points(rows: list[dict[str, str]], name: str) -> Iterator[tuple[float, float]]:
    for index, row in enumerate(rows):
        step, value = _finite(row.get("step") or str(index)), _finite(row[name])
        if step is not None and value is not None:
            yield step, value


def _finite(cell: str | None) -> float | None:
    """The number in a cell; None for an empty cell, a word, nan and inf."""
    try:
        value = float(cell or "nan")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _binned(curve: Curve) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean step and least, mean and largest value of at most BINS groups of consecutive points."""
    count = min(BINS, len(curve.steps))
    starts = np.arange(count) * len(curve.steps) // count
    sizes = np.diff(np.append(starts, len(curve.steps)))
    low, high = np.minimum.reduceat(curve.values, starts), np.maximum.reduceat(curve.values, starts)
    mean = np.clip(np.add.reduceat(curve.values, starts) / sizes, low, high)  # rounding can leave the range
    return np.add.reduceat(curve.steps, starts) / sizes, low, mean, high


def _number(value: float) -> str:
    """Whole numbers and those from 1,000 on without decimals, others with three significant digits."""
    if abs(value) < 1e9 and (abs(value) >= 1e3 or float(value).is_integer()):
        return f"{value:,.0f}"
    return f"{value:.3g}"
