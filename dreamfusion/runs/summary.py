"""summary.json of a run: what came out of it. Light, for the pages and tables that only read it."""

from __future__ import annotations

import json
from pathlib import Path

from dreamfusion.files import replacing

SUMMARY = "summary.json"


def add_to_summary(folder: Path, figures: dict[str, float]) -> None:
    """Add figures to the run's summary.json."""
    path = folder / SUMMARY
    with replacing(path) as draft:
        draft.write_text(json.dumps(read_summary(folder) | figures, indent=1) + "\n", encoding="utf-8")


def read_summary(folder: Path) -> dict[str, float]:
    """What came out of a run; empty where nothing was noted, or cannot be read."""
    try:
        content = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
