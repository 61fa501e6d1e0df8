"""The page of a run: one `index.html` that shows prompt, model, video, curves and settings, with no network.

Everything shown is embedded, and the page's content security policy forbids it to ask for anything else; only the
links to the files beside it are links. The look is in `page.html`, the 3D viewer in `assets/`.
"""

from __future__ import annotations

import base64
import html
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from dreamfusion import __version__
from dreamfusion.files import replacing
from dreamfusion.report.curves import draw_curve, read_curves

MEDIA_TYPES = {".glb": "model/gltf-binary", ".mp4": "video/mp4", ".png": "image/png", ".jpg": "image/jpeg"}


@dataclass(frozen=True)
class RunPage:
    """What a page shows. A part that is None or empty is left out, and its heading with it."""

    prompt: str
    mesh: Path | None = None  # GLB, to turn around
    video: Path | None = None  # MP4 of the turntable
    previews: Mapping[str, Path] = field(default_factory=dict)  # caption -> PNG or JPEG, in the order of training
    metrics: Path | None = None  # CSV with a column `step`; every other numeric column becomes a curve
    figures: Mapping[str, str] = field(default_factory=dict)  # what came out: steps, seconds, triangles, ...
    settings: Mapping[str, str] = field(default_factory=dict)  # what was chosen: guidance, seed, ...
    files: Sequence[Path] = ()  # to link, as lying beside the page


def write_page(page: RunPage, path: Path) -> None:
    """Write `page` to `path` (an `index.html`), atomically.

    Raises:
        FileNotFoundError: a file the page names is not there.
        ValueError: an embedded file whose suffix is none of glb, mp4, png, jpg.
    """
    parts = {
        "title": html.escape(page.prompt),
        "version": html.escape(__version__),
        "stage": _stage(page),
        "figures": _definitions("figures", page.figures),
        "previews": _section("On the way", _previews(page.previews)),
        "curves": _section("Curves", _curves(page.metrics)),
        "settings": _section("Settings", _definitions("settings", page.settings)),
        "files": _section("Files", _links(page.files, path.parent)),
        "viewer": viewer_script() if page.mesh is not None else "",
    }
    template = files("dreamfusion.report").joinpath("page.html").read_text(encoding="utf-8")
    # One pass, so that a prompt that reads {{viewer}} stays text.
    document = re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)
    with replacing(path) as draft:
        draft.write_text(document, encoding="utf-8")


def _stage(page: RunPage) -> str:
    """The model and the video side by side; either may be missing."""
    label = html.escape(page.prompt)
    shown = []
    if page.mesh is not None:
        shown.append(
            f'<div class="model"><model-viewer alt="{label}" src="{embedded(page.mesh)}" camera-controls auto-rotate '
            'auto-rotate-delay="600" rotation-per-second="24deg" camera-orbit="20deg 78deg 115%" touch-action="pan-y" '
            'interaction-prompt="none" environment-image="legacy" tone-mapping="neutral" exposure="0.8" '
            'shadow-intensity="0.7" shadow-softness="0.9" min-camera-orbit="auto auto 40%"></model-viewer>'
            '<p class="hint">Drag to turn, scroll or pinch to zoom</p></div>'
        )
    if page.video is not None:
        shown.append(
            f'<div class="video"><video src="{embedded(page.video)}" aria-label="{label}, turning" '
            "autoplay muted loop playsinline controls></video></div>"
        )
    return f'<div class="stage">{"".join(shown)}</div>' if shown else ""


def _previews(previews: Mapping[str, Path]) -> str:
    shown = (
        f'<figure><img src="{embedded(image)}" alt=""><figcaption>{html.escape(caption)}</figcaption></figure>'
        for caption, image in previews.items()
    )
    return f'<div class="previews">{"".join(shown)}</div>' if previews else ""


def _curves(metrics: Path | None) -> str:
    curves = read_curves(metrics) if metrics is not None else []
    return f'<div class="curves">{"".join(map(draw_curve, curves))}</div>' if curves else ""


def _definitions(kind: str, values: Mapping[str, str]) -> str:
    rows = (f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>" for name, value in values.items())
    return f'<dl class="{kind}">{"".join(rows)}</dl>' if values else ""


def _links(linked: Sequence[Path], folder: Path) -> str:
    items = []
    for file in linked:
        relative = Path(os.path.relpath(file, folder)).as_posix()
        address = html.escape(quote(relative))
        items.append(
            f'<li><a href="./{address}">{html.escape(relative)}</a><span>{_size(file.stat().st_size)}</span></li>'
        )
    return f'<ul class="files">{"".join(items)}</ul>' if items else ""


def _section(heading: str, body: str) -> str:
    return f"<section><h2>{heading}</h2>{body}</section>" if body else ""


def embedded(path: Path) -> str:
    """The file as a data URL."""
    media_type = MEDIA_TYPES.get(path.suffix.lower())
    if media_type is None:
        raise ValueError(
            f"cannot embed {path.name!r}: a page shows {', '.join(s.lstrip('.') for s in MEDIA_TYPES)} files"
        )
    return f"data:{media_type};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def viewer_script() -> str:
    """The 3D viewer as a script element."""
    script = files("dreamfusion.report").joinpath("assets/model-viewer-umd.min.js").read_text(encoding="utf-8")
    return f"<script>{script}</script>"


def _size(count: int) -> str:
    """Bytes for people."""
    amount, unit = float(count), "B"
    for larger in ("kB", "MB", "GB"):
        if amount < 1000.0:
            break
        amount, unit = amount / 1000.0, larger
    return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100.0 else f"{amount:.1f} {unit}"
