"""The curves of a run: a CSV of metrics (as Lightning's CSVLogger writes it) to small inline SVG charts."""

from __future__ import annotations

import csv
import html
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

BINS = 160  # points of a drawn line; a longer curve is shown as mean and range of each bin
LOGARITHMIC_FROM = 100.0  # ratio of the largest to the smallest value from which the axis is logarithmic
WIDTH, HEIGHT = 320.0, 120.0  # of a chart, in SVG units
AXES = ("step", "epoch")  # columns that are not metrics


@dataclass(frozen=True, eq=False)
class Curve:
    """One metric over the steps of the run; the points are ascending in step and finite."""

    name: str
    steps: np.ndarray  # (N,)
    values: np.ndarray  # (N,)


def read_curves(path: Path) -> list[Curve]:
    """The numeric columns of a CSV with a header, each with the rows in which it has a finite number.

    Without a column `step` the row's number takes its place. Columns of less than two points make no curve.
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    curves = []
    for name in rows[0] if rows else ():
        points = sorted(_points(rows, name))
        if name not in AXES and len(points) >= 2:
            steps, values = np.asarray(points).T
            curves.append(Curve(name, steps, values))
    return curves


def draw_curve(curve: Curve) -> str:
    """One chart as an HTML figure: name, last value, and an SVG that carries its points for the page's pointer."""
    steps, low, mean, high = _binned(curve)
    logarithmic = low.min() > 0.0 and high.max() > LOGARITHMIC_FROM * low.min()
    scale = np.log10 if logarithmic else np.asarray
    bottom, top = float(scale(low.min())), float(scale(high.max()))
    first, last = curve.steps[0], curve.steps[-1]
    x = WIDTH * (steps - first) / max(last - first, 1e-12)

    def y(values: np.ndarray) -> np.ndarray:
        return HEIGHT * (1.0 - (scale(values) - bottom) / (top - bottom) if top > bottom else np.full(len(x), 0.5))

    line = _path(x, y(mean))
    band = f"{_path(x, y(high))}L{_path(x[::-1], y(low)[::-1])[1:]}Z"
    points = [[round(float(a), 1), round(float(b), 1), _number(s), _number(v)] for a, b, s, v in
              zip(x, y(mean), steps, mean, strict=True)]  # fmt: skip
    title = html.escape(curve.name.replace("/", " · ").replace("_", " "))
    note = " <small>log</small>" if logarithmic else ""
    return (
        f'<figure class="curve"><figcaption>{title}{note}<output>{_number(mean[-1])}</output></figcaption>'
        f'<div class="plot"><svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" preserveAspectRatio="none" role="img" '
        f'aria-label="{title}" data-points="{html.escape(json.dumps(points, separators=(",", ":")))}">'
        f'<path class="band" d="{band}"/><path class="line" d="{line}"/><path class="cursor" d=""/></svg>'
        f"<div><span>{_number(high.max())}</span><span>{_number(low.min())}</span></div></div>"
        f'<div class="steps"><span>{_number(first)}</span><span>step {_number(last)}</span></div></figure>'
    )


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
    """Step, least, mean and largest value of each of at most BINS runs of neighbouring points."""
    count = min(BINS, len(curve.steps))
    starts = np.arange(count) * len(curve.steps) // count
    sizes = np.diff(np.append(starts, len(curve.steps)))
    low, high = np.minimum.reduceat(curve.values, starts), np.maximum.reduceat(curve.values, starts)
    mean = np.clip(np.add.reduceat(curve.values, starts) / sizes, low, high)  # rounding must not leave the range
    return np.add.reduceat(curve.steps, starts) / sizes, low, mean, high


def _path(x: np.ndarray, y: np.ndarray) -> str:
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True))


def _number(value: float) -> str:
    """For people: whole numbers and those from 1,000 in full, others with three significant digits."""
    if abs(value) < 1e9 and (abs(value) >= 1e3 or float(value).is_integer()):
        return f"{value:,.0f}"
    return f"{value:.3g}"
