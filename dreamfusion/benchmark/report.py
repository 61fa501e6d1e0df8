"""Benchmark report: tables in Markdown, and a plot as SVG."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dreamfusion.benchmark.dream import shares
from dreamfusion.benchmark.timing import OURS, Row, Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#3566b8", "#d08a2e", "#4f9d69", "#b5485d", "#7a68a6", "#888888")


def ratio_table(rows: Sequence[Row]) -> str:
    """Table of our time, and the min / median / max over the rounds of every other time relative to ours."""
    lines = ["| operation | setting | ours | against | times ours, min / median / max |", "|---|---|--:|---|--:|"]
    for row in rows:
        ours, setting = milliseconds(row.time().median), ", ".join(f"{k} {v}" for k, v in row.setting.items())
        for name in row.seconds:
            if name != OURS:
                spread = row.ratio(name)
                ratios = f"{number(spread.low)} / {number(spread.median)} / {number(spread.high)}"
                lines.append(f"| {row.operation} | {setting} | {ours} | {name} | {ratios} |")
    return "\n".join(lines)


def curve_table(curves: Mapping[str, Sequence[Row]]) -> str:
    """Table of our time along each scaling curve."""
    lines = ["| operation | against | at | samples | time, min / median / max |", "|---|---|--:|--:|--:|"]
    for name, rows in curves.items():
        for row in rows:
            spread = row.time()
            times = " / ".join(milliseconds(seconds) for seconds in (spread.low, spread.median, spread.high))
            samples = row.setting.get("samples", row.setting.get("points", ""))
            lines.append(f"| {row.operation} | {name} | {row.setting[name]} | {samples} | {times} |")
    return "\n".join(lines)


def share_table(rows: Sequence[Row]) -> str:
    """Table of the parts of the configured step."""
    parts = list(rows[0].seconds)
    lines = ["| step | " + " | ".join(parts) + " | all |", "|---|" + "--:|" * (len(parts) + 1)]
    for row in rows:
        middle, share = {part: row.time(part).median for part in parts}, shares(row)
        cells = [f"{milliseconds(middle[part])} ({share[part]:.0%})" for part in parts]
        lines.append(f"| {row.operation} | " + " | ".join(cells) + f" | {milliseconds(sum(middle.values()))} |")
    return "\n".join(lines)


def plot(ratios: Sequence[Row], curves: Mapping[str, Sequence[Row]], steps: Sequence[Row]) -> str:
    """One SVG: scaling curves on logarithmic axes, ratios as bars, and shares of the training step as stacked bars."""
    from matplotlib.figure import Figure

    from dreamfusion.report.svg import style, to_svg

    panels = [(name, rows) for name, rows in curves.items() if len(rows) > 1]
    bars = sum(len(row.seconds) - 1 for row in ratios)
    lines = math.ceil(len(panels) / 2)
    heights = [2.4 * max(lines, 1), 0.8 + 0.2 * bars, 0.8 + 0.45 * len(steps)]
    with style():
        figure = Figure(figsize=(9.0, sum(heights)), layout="constrained")
        top, middle, bottom = figure.subfigures(3, 1, squeeze=False, height_ratios=heights)[:, 0]
        for index, (name, rows) in enumerate(panels):
            _plot_curve(top.add_subplot(lines, 2, index + 1), name, rows)
        _plot_ratios(middle.add_subplot(), ratios)
        _plot_shares(bottom.add_subplot(), steps)
        return to_svg(figure, transparent=False)


def milliseconds(seconds: float) -> str:
    """Format with three significant digits."""
    return f"{number(1000 * seconds)} ms"


def number(value: float) -> str:
    """Format with three significant digits and no exponent."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}" if value else "0"


def _plot_curve(axes: "Axes", name: str, rows: Sequence[Row]) -> None:
    """Median and range over the rounds; both axes logarithmic."""
    at, spreads = [float(row.setting[name]) for row in rows], [row.time() for row in rows]
    axes.errorbar(at, [s.median for s in spreads], _errors(spreads), color=COLORS[0], marker="o", markersize=4.0)
    for x, spread in zip(at, spreads, strict=True):
        label = milliseconds(spread.median)
        axes.annotate(label, (x, spread.median), (0, 5), textcoords="offset points", ha="center", color="#555555")
    axes.set(xscale="log", yscale="log", title=f"{rows[0].operation} against {name}")
    axes.margins(0.12, 0.15)
    axes.set_xticks(at, [str(row.setting[name]) for row in rows])
    axes.set_yticks([])
    axes.minorticks_off()


def _plot_ratios(axes: "Axes", rows: Sequence[Row]) -> None:
    """A bar per comparison, logarithmic from 1/8, with the range over the rounds."""
    bars = [(row, name, row.ratio(name)) for row in rows for name in row.seconds if name != OURS]
    tables = [f", {row.setting['table']}" if "table" in row.setting else "" for row, _, _ in bars]
    labels = [f"{row.operation}{table} · {name}" for (row, name, _), table in zip(bars, tables, strict=True)]
    colors = [COLORS[5] if name == "limit" else COLORS[0] for _, name, _ in bars]
    spreads = [spread for _, _, spread in bars]
    places = range(len(bars))
    drawn = axes.barh(places, [s.median for s in spreads], xerr=_errors(spreads), color=colors, height=0.7)
    axes.bar_label(drawn, [number(s.median) for s in spreads], padding=3.0)
    axes.axvline(1.0, color="black", linestyle="--", linewidth=0.8)
    axes.set(xscale="log", title="Times our time (logarithmic; the dashed line is 1)")
    axes.set_xlim(1 / 8, 2.0 * max([1.0, *(s.high for s in spreads)]))
    axes.set_yticks(places, labels)
    axes.set_ylim(max(len(bars), 1) - 0.5, -0.5)


def _plot_shares(axes: "Axes", rows: Sequence[Row]) -> None:
    """Stacked bars: the share of each part in the training step."""
    for place, row in enumerate(rows):
        left = 0.0
        for color, (part, share) in zip(COLORS, shares(row).items(), strict=False):
            drawn = axes.barh(place, share, left=left, color=color, height=0.7)
            if share > 0.08:
                axes.bar_label(drawn, [f"{part} {share:.0%}"], label_type="center", color="white")
            left += share
    axes.set(title="Time of the training step by part", xlim=(0.0, 1.0))
    axes.set_yticks(range(len(rows)), [row.operation for row in rows])
    axes.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    axes.xaxis.set_visible(False)


def _errors(spreads: Sequence[Spread]) -> list[list[float]]:
    """Distances from the median to the least and the largest value."""
    return [[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]]
