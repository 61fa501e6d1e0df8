"""The page of a run: one `index.html` with prompt, model, video, curves and settings, which needs no network.

All media are embedded, and the content security policy blocks every other request; only links to the files beside the
page remain. The layout is in `page.html`, the 3D viewer in `assets/`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dreamfusion.report.curves import draw_curve, read_curves
from dreamfusion.report.template import encode_base64, write_html


@dataclass(frozen=True)
class RunPage:
    """The content of a page. A part that is None or empty is left out together with its heading."""

    prompt: str
    mesh: Path | None = None  # GLB, shown in the 3D viewer
    video: Path | None = None  # MP4 of the turntable
    previews: Mapping[str, Path] = field(default_factory=dict)  # caption -> PNG or JPEG, in the order of training
    metrics: Path | None = None  # CSV with a column `step`; every other numeric column becomes a curve
    figures: Mapping[str, str] = field(default_factory=dict)  # results: steps, seconds, triangles, ...
    notes: Mapping[str, str] = field(default_factory=dict)  # name of a figure -> its explanation in one line
    warning: str = ""  # shown above the figures
    settings: Mapping[str, str] = field(default_factory=dict)  # guidance, seed, ...
    files: Sequence[Path] = ()  # linked relative to the page
    splats: bytes = b""  # of a .splat file, shown in 3D instead of the mesh until a button is pressed
    reload: int | None = None  # seconds until an open page loads itself again, while the run is at work


def write_page(page: RunPage, path: Path) -> None:
    """Write `page` to `path` (an `index.html`), atomically.

    Raises:
        FileNotFoundError: a file of the page does not exist.
        ValueError: an embedded file has a suffix other than glb, mp4, png, jpg.
    """
    curves = read_curves(page.metrics) if page.metrics is not None else []
    write_html(
        "page.html",
        path,
        title=page.prompt,
        page=page,
        folder=path.parent,
        charts=[draw_curve(curve) for curve in curves],
        splats=encode_base64(page.splats),
        has_model=page.mesh is not None,
        reload=page.reload,
    )
