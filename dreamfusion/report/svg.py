"""matplotlib figures as reproducible SVG text, without pyplot's global state.

matplotlib takes half a second to import, so callers import this module inside the function that draws.
"""

import io
from contextlib import AbstractContextManager
from typing import Any

import matplotlib
from matplotlib.figure import Figure

SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "dreamfusion",  # the same figure has the same bytes
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def style() -> AbstractContextManager[None]:
    """Apply SETTINGS while a figure is built and drawn."""
    return matplotlib.rc_context(SETTINGS)


def to_svg(figure: Figure, transparent: bool = True) -> str:
    """The figure as an `<svg>` element, without XML declaration and metadata."""
    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=transparent, metadata=nothing)
    text = file.getvalue()
    return text[text.index("<svg") :]
