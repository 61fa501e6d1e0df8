"""Benchmark report: tables in Markdown, and a plot as SVG."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

from dreamfusion.benchmark.dream import shares
from dreamfusion.benchmark.timing import OURS, Row

COLORS = ("#3566b8", "#d08a2e", "#4f9d69", "#b5485d", "#7a68a6", "#888888")
WIDTH, HEIGHT, MARGIN = 280, 170, 44  # of one panel, SVG units


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
    """One SVG: the scaling curves on logarithmic axes, the ratios as bars, the shares of the step as stacked bars."""
    panels = [_curve(name, rows) for name, rows in curves.items() if len(rows) > 1]
    bars = [_ratio_bars(ratios), _share_bars(steps)]
    columns = max(1, min(2, len(panels)))
    body, top = [], 0.0
    for index, panel in enumerate(panels):
        place = f"translate({index % columns * (WIDTH + MARGIN)} {index // columns * (HEIGHT + 2 * MARGIN)})"
        body.append(f'<g transform="{place}">{panel}</g>')
    top += math.ceil(len(panels) / columns) * (HEIGHT + 2 * MARGIN)
    for picture, height in bars:
        body.append(f'<g transform="translate(0 {top:.0f})">{picture}</g>')
        top += height
    size = f"{2 * (WIDTH + MARGIN) + MARGIN} {top + MARGIN:.0f}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{-MARGIN} {-MARGIN} {size}" font-family="sans-serif" '
        f'font-size="11"><rect x="{-MARGIN}" y="{-MARGIN}" width="100%" height="100%" fill="white"/>'
        f"{''.join(body)}</svg>\n"
    )


def milliseconds(seconds: float) -> str:
    """Format with three significant digits."""
    return f"{number(1000 * seconds)} ms"


def number(value: float) -> str:
    """Format with three significant digits and no exponent."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}" if value else "0"


def _curve(name: str, rows: Sequence[Row]) -> str:
    """Line of medians with the range of the rounds; both axes logarithmic."""
    at = [math.log(float(row.setting[name])) for row in rows]
    spreads = [row.time() for row in rows]
    bottom, top = math.log(min(s.low for s in spreads)), math.log(max(s.high for s in spreads))

    def x(value: float) -> float:
        return WIDTH * (value - at[0]) / max(at[-1] - at[0], 1e-9)

    def y(seconds: float) -> float:
        return HEIGHT * (1 - (math.log(seconds) - bottom) / max(top - bottom, 1e-9))

    line = " ".join(f"{x(a):.1f},{y(s.median):.1f}" for a, s in zip(at, spreads, strict=True))
    parts = [f'<text y="-8" font-weight="bold">{html.escape(rows[0].operation)} against {html.escape(name)}</text>']
    parts.append(f'<rect width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#ccc"/>')
    parts.append(f'<polyline points="{line}" fill="none" stroke="{COLORS[0]}" stroke-width="2"/>')
    for a, spread, row in zip(at, spreads, rows, strict=True):
        parts.append(f'<path d="M{x(a):.1f} {y(spread.low):.1f}V{y(spread.high):.1f}" stroke="{COLORS[0]}"/>')
        parts.append(f'<circle cx="{x(a):.1f}" cy="{y(spread.median):.1f}" r="3" fill="{COLORS[0]}"/>')
        parts.append(f'<text x="{x(a):.1f}" y="{HEIGHT + 14}" text-anchor="middle">{row.setting[name]}</text>')
        parts.append(
            f'<text x="{x(a):.1f}" y="{y(spread.median) - 6:.1f}" text-anchor="middle" fill="#555">'
            f"{milliseconds(spread.median)}</text>"
        )
    return "".join(parts)


def _ratio_bars(rows: Sequence[Row]) -> tuple[str, float]:
    """One bar per comparison, logarithmic from 1/8, with the range of the rounds."""
    bars = [(row, name, row.ratio(name)) for row in rows for name in row.seconds if name != OURS]
    full = math.log(max([2.0, *(spread.high for _, _, spread in bars)]) * 8)

    def x(ratio: float) -> float:
        return WIDTH + WIDTH * math.log(max(ratio, 1 / 8) * 8) / full

    parts = ['<text y="-8" font-weight="bold">Times our time (logarithmic; the line is 1)</text>']
    for i, (row, name, spread) in enumerate(bars):
        what = f"{row.operation}, {row.setting['table']}" if "table" in row.setting else row.operation
        label = html.escape(f"{what} · {name}")
        color = COLORS[5] if name == "limit" else COLORS[0]
        parts.append(f'<text x="{WIDTH - 6}" y="{15 * i + 11}" text-anchor="end">{label}</text>')
        parts.append(
            f'<rect x="{WIDTH}" y="{15 * i + 2}" width="{x(spread.median) - WIDTH:.1f}" height="11" fill="{color}"/>'
        )
        parts.append(f'<path d="M{x(spread.low):.1f} {15 * i + 7.5}H{x(spread.high):.1f}" stroke="black"/>')
        parts.append(f'<text x="{x(spread.high) + 4:.1f}" y="{15 * i + 11}">{number(spread.median)}</text>')
    height = 15 * len(bars)
    parts.append(f'<path d="M{x(1.0):.1f} 0V{height}" stroke="black" stroke-dasharray="2 2"/>')
    return "".join(parts), height + MARGIN


def _share_bars(rows: Sequence[Row]) -> tuple[str, float]:
    """Stacked bars of the configured step."""
    parts = ['<text y="-8" font-weight="bold">Where the time of the configured step goes</text>']
    full = 2 * WIDTH + MARGIN - 60
    for i, row in enumerate(rows):
        left, top = 60.0, 34 * i
        parts.append(f'<text y="{top + 15}">{html.escape(row.operation)}</text>')
        for color, (part, share) in zip(COLORS, shares(row).items(), strict=False):
            width = full * share
            parts.append(f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="22" fill="{color}"/>')
            if share > 0.08:
                text = html.escape(f"{part} {share:.0%}")
                parts.append(f'<text x="{left + 4:.1f}" y="{top + 15}" fill="white">{text}</text>')
            left += width
    return "".join(parts), 34.0 * len(rows) + MARGIN
