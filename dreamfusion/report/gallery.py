"""One page that compares many runs: pictures, prompts, differing settings, results, and each model in 3D on a click.

The page is one file that needs no network: thumbnails, models and the viewer are embedded, and the content security
policy blocks every other request. A model stays base64 text until it is clicked; models beyond `EMBEDDED` bytes become
links to the pages of their runs.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import av
from PIL import Image

from dreamfusion.error import UserError
from dreamfusion.report.template import encode_base64, relative_url, write_html

THUMBNAIL = 320  # largest side in pixels
EMBEDDED = 200_000_000  # most bytes of models in a page, about a hundred models of the default size
QUALITY = 85  # JPEG quality of a thumbnail
FEW = 4  # figures of a run that are shown; the others on a click


@dataclass(frozen=True)
class Entry:
    """One run. A part that is None or empty is left out."""

    prompt: str
    mesh: Path | None = None  # GLB, shown in the 3D viewer
    video: Path | None = None  # MP4 of the turntable; its first frame is the thumbnail
    settings: Mapping[str, str] = field(default_factory=dict)  # all settings; the page shows those that differ
    figures: Mapping[str, str] = field(default_factory=dict)  # results: seconds, scores, ...
    page: Path | None = None  # the page of the run, linked
    warning: str = ""  # shown above the figures


@dataclass(frozen=True)
class _Card:
    """One run as `gallery.html` shows it; empty strings stand for missing parts."""

    entry: Entry
    settings: Mapping[str, str]  # those that differ between the runs
    figures: Mapping[str, str]  # the first FEW
    others: Mapping[str, str]  # the other figures
    address: str  # of the run's page
    thumbnail: str  # data URL
    model: str  # base64 of the GLB; empty if missing or beyond the limit of the page


def write_gallery(entries: Sequence[Entry], title: str, path: Path) -> None:
    """Write the page of the runs to `path`, atomically.

    Raises:
        ValueError: there are no runs.
        FileNotFoundError: a file of an entry does not exist.
    """
    if not entries:
        raise ValueError("a gallery needs at least one run")
    shown = differing([entry.settings for entry in entries])
    cards, available = [], EMBEDDED
    for entry in entries:
        size = 0 if entry.mesh is None else entry.mesh.stat().st_size
        fits = 0 < size <= available
        available -= size if fits else 0
        figures = list(entry.figures.items())
        cards.append(
            _Card(
                entry=entry,
                figures=dict(figures[:FEW]),
                others=dict(figures[FEW:]),
                settings={name: entry.settings[name] for name in shown if name in entry.settings},
                address="" if entry.page is None else relative_url(entry.page, path.parent),
                thumbnail="" if entry.video is None else _thumbnail(entry.video),
                model=encode_base64(entry.mesh.read_bytes()) if fits and entry.mesh is not None else "",
            )
        )
    write_html("gallery.html", path, title=title, cards=cards, has_model=any(card.model for card in cards))


def differing(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """Names of the settings whose values differ between the runs, in order of appearance."""
    names = dict.fromkeys(name for one in settings for name in one)
    return [name for name in names if len({one.get(name) for one in settings}) > 1]


def check_video(video: Path) -> None:
    """Raises: UserError: the file has no first frame that can be decoded."""
    try:
        _first_frame(video)
    except (av.error.FFmpegError, OSError, ValueError, LookupError, StopIteration) as error:
        raise UserError(f"{video} is not a video ({type(error).__name__}); mode=render makes it again") from error


def _first_frame(video: Path) -> Image.Image:
    with av.open(str(video)) as container:
        return next(container.decode(video=0)).to_image()


def _thumbnail(video: Path) -> str:
    """The first frame as a data URL of a JPEG."""
    frame = _first_frame(video)
    frame.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    frame.save(file, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{encode_base64(file.getvalue())}"
