"""Many runs on one page: pictures, prompts, what differs, what came out, and each model to turn on a click.

One file that opens from a folder with no network: thumbnails, models and the viewer are embedded, and the page's
content security policy forbids it to ask for anything else. A model is text until it is clicked; those that would make
the page too large to open are a link to the run's own page instead.
"""

from __future__ import annotations

import base64
import html
import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

import av
from PIL import Image

from dreamfusion import __version__
from dreamfusion.files import replacing
from dreamfusion.report.page import viewer_script

THUMBNAIL = 320  # pixels a side, at most
EMBEDDED = 200_000_000  # bytes of models in a page, at most: a hundred of the default size
QUALITY = 85  # of a thumbnail as JPEG


@dataclass(frozen=True)
class Entry:
    """One run. A part that is None or empty is left out."""

    prompt: str
    mesh: Path | None = None  # GLB, to turn around
    video: Path | None = None  # MP4 of the turntable; its first frame is the thumbnail
    settings: Mapping[str, str] = field(default_factory=dict)  # all of them; the page shows those that differ
    figures: Mapping[str, str] = field(default_factory=dict)  # what came out: seconds, scores, ...
    page: Path | None = None  # the run's own, to link


def write_gallery(entries: Sequence[Entry], title: str, path: Path) -> None:
    """Write the page of the runs to `path`, atomically.

    Raises:
        ValueError: no runs.
        FileNotFoundError: a file that an entry names is not there.
    """
    if not entries:
        raise ValueError("a gallery needs a run")
    shown = differing([entry.settings for entry in entries])
    cards, models, room = [], [], EMBEDDED
    for number, entry in enumerate(entries):
        size = 0 if entry.mesh is None else entry.mesh.stat().st_size
        fits = 0 < size <= room
        cards.append(_card(number, entry, shown, fits, path.parent))
        if fits and entry.mesh is not None:
            room -= size
            data = base64.b64encode(entry.mesh.read_bytes()).decode("ascii")
            models.append(f'<script type="text/plain" id="model-{number}">{data}</script>')
    parts = {
        "title": html.escape(title),
        "count": f"{len(entries)} run{'s' if len(entries) > 1 else ''}",
        "cards": "".join(cards),
        "models": "".join(models),
        "version": html.escape(__version__),
        "viewer": viewer_script() if models else "",
    }
    template = files("dreamfusion.report").joinpath("gallery.html").read_text(encoding="utf-8")
    document = re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)  # one pass: {{..}} in a prompt is text
    with replacing(path) as draft:
        draft.write_text(document, encoding="utf-8")


def differing(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """The names, in order of appearance, of the settings that are not the same in all of these."""
    names = dict.fromkeys(name for one in settings for name in one)
    return [name for name in names if len({one.get(name) for one in settings}) > 1]


def _card(number: int, entry: Entry, shown: Sequence[str], embedded: bool, folder: Path) -> str:
    label = html.escape(entry.prompt)
    picture = "" if entry.video is None else f'<img src="{_thumbnail(entry.video)}" alt="">'
    address = "" if entry.page is None else f"./{quote(Path(os.path.relpath(entry.page, folder)).as_posix())}"
    button = f'<button type="button" data-model="model-{number}" data-label="{label}"'
    if embedded:
        top = f"{button}>{picture}<span>Turn</span></button>"
    elif address and entry.mesh is not None:
        top = f'<a class="top" href="{address}">{picture}<span>Open</span></a>'
    else:
        top = f"{button} disabled>{picture}<span>No model</span></button>"
    heading = f'<a href="{address}">{label}</a>' if address else label
    rows = [(name, entry.settings[name]) for name in shown if name in entry.settings]
    return (
        f'<article class="card">{top}<h2>{heading}</h2>{_rows("settings", rows)}'
        f"{_rows('figures', list(entry.figures.items()))}</article>"
    )


def _rows(kind: str, rows: Sequence[tuple[str, str]]) -> str:
    cells = "".join(f"<div><dt>{html.escape(n)}</dt><dd>{html.escape(v)}</dd></div>" for n, v in rows)
    return f'<dl class="{kind}">{cells}</dl>' if cells else ""


def _thumbnail(video: Path) -> str:
    """The first frame as a data URL of a JPEG."""
    with av.open(str(video)) as container:
        frame: Image.Image = next(container.decode(video=0)).to_image()
    frame.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    frame.save(file, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
