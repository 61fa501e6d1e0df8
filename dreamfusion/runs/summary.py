"""summary.json: the final figures of a run."""

from pathlib import Path

from dreamfusion.files import read_figures, write_json

SUMMARY = "summary.json"


def add_to_summary(folder: Path, figures: dict[str, float]) -> None:
    """Add figures to the run's summary.json.

    Raises:
        UserError: a figure is not finite.
    """
    write_json(folder / SUMMARY, read_summary(folder) | figures)


def read_summary(folder: Path) -> dict[str, float]:
    """The figures of a run; empty if the file is missing or unreadable."""
    return read_figures(folder / SUMMARY)
