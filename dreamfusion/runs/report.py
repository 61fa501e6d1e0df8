"""The table of a study, from its finished and its failed runs: report.csv, report.md and gallery.html."""

import csv
import logging
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import quote

from omegaconf import DictConfig

from dreamfusion.error import UserError
from dreamfusion.files import replacing
from dreamfusion.report.markdown import inert
from dreamfusion.report.template import relative_path
from dreamfusion.runs.gallery import gallery
from dreamfusion.runs.leaderboard import leaderboard
from dreamfusion.runs.names import STUDIES
from dreamfusion.runs.results import Result, counted
from dreamfusion.runs.study import differing, ended, existing_study, unfinished
from dreamfusion.training.loggers import wandb_mode

log = logging.getLogger(__name__)
FORMULA = re.compile(r"[\s\"']*[=+\-@＝＋－＠]")  # spreadsheets skip whitespace before it
LONGEST = 40  # characters of a prompt or setting in the Markdown table


def report(study: str, studies: Path = STUDIES, logger: DictConfig | None = None, reference: str | None = None) -> Path:
    """Write the study's files, and log the table to Weights & Biases if `logger` does; returns the folder.

    `reference`: of the leaderboard, see `leaderboard`.
    """
    return report_folder(study, existing_study(study, studies), logger, reference)


def report_folder(study: str, folder: Path, logger: DictConfig | None = None, reference: str | None = None) -> Path:
    """The same for the runs in a folder, which `hydra.sweep.dir` may have placed anywhere."""
    results = ended(folder)
    boards = leaderboard(study, results, folder, reference)  # first: the reference may be wrong
    rows = table(results, folder)
    with replacing(folder / "report.csv") as draft, draft.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([_inert(cell) for cell in row] for row in rows)
    failures = {relative_path(run.path, folder): run.failed for run in results if run.failed}
    text = markdown(study, rows, [path.relative_to(folder) for path in unfinished(folder)], failures)
    with replacing(folder / "report.md") as draft:
        draft.write_text(text, encoding="utf-8")
    files = [folder / "report.md", folder / "report.csv", *boards]
    if shown := [run.path for run in results if not run.failed and (run.path / "config.yaml").is_file()]:
        try:
            gallery(shown, study, folder / "gallery.html")
            files.append(folder / "gallery.html")
        except UserError as error:
            log.warning("no gallery: %s", error)
    log.info("\n%s%s", text.rstrip(), "".join(f"\n  {file}" for file in files))
    if logger is not None and logger._target_ == "dreamfusion.training.loggers.wandb" and wandb_mode() != "disabled":
        from dreamfusion.training.metrics import log_study_table  # imported here: slow

        cells = [[_number(cell) if cell else None for cell in row] for row in rows[1:]]
        log_study_table(study, folder, rows[0], cells, logger.project, len(cells) - len(failures))
    return folder


def table(results: Sequence[Result], folder: Path) -> list[list[str]]:
    """A header row and a row for each run, finished or failed, with a column for each value that some run has."""
    settings = differing(results)
    scores = list(dict.fromkeys(name for result in results for name in result.scores))
    pruned = ["pruned"] if any(result.pruned for result in results) else []
    failed = ["failed"] if any(result.failed for result in results) else []
    heads = [name.removesuffix("._target_") for name in settings]
    rows = [["prompt", "seed", *heads, "steps", "seconds", *scores, *pruned, *failed, "path"]]
    for result in results:
        rows.append(
            [
                result.prompt,
                str(result.seed),
                *(_shown(result.settings.get(name)) for name in settings),
                str(result.steps),
                f"{result.seconds:.1f}",
                *(f"{result.scores[name]:.4f}" if name in result.scores else "" for name in scores),
                *([result.pruned or ""] if pruned else []),
                *([result.failed or ""] if failed else []),
                relative_path(result.path, folder),
            ]
        )
    return rows


def markdown(
    study: str, rows: Sequence[Sequence[str]], missing: Sequence[Path], failures: Mapping[str, str | None]
) -> str:
    """The table in GitHub's Markdown, with right-aligned numbers and linked folders, and the unfinished runs.

    `failures`: path -> reason, which the table shortens.
    """
    head, *body = rows
    cell = partial(inert, longest=LONGEST)
    numeric = [bool(body) and all(isinstance(_number(row[i] or "0"), float) for row in body) for i in range(len(head))]
    failed = f" {len(failures)} failed," if failures else ""
    lines = [
        f"# {cell(study)}",
        "",
        f"{counted(len(body) - len(failures), 'finished run')},{failed} {len(missing)} unfinished.",
        "",
    ]
    lines.append(f"| {' | '.join(map(cell, head))} |")
    lines.append(f"|{'|'.join('--:' if right else '---' for right in numeric)}|")
    for *cells, path in body:
        page = "" if path in failures else "index.html"  # a run that failed early has none
        lines.append(f"| {' | '.join(cell(text) for text in cells)} | [{cell(path)}]({quote(path)}/{page}) |")
    if failures:
        reasons = (f"- {cell(path)}: {inert(str(reason))}" for path, reason in failures.items())
        lines += ["", "Failed; the settings are in the table:", *reasons]
    if missing:
        lines += ["", "Unfinished; repeat the command to resume:", *(f"- {cell(path.as_posix())}" for path in missing)]
    return "\n".join(lines) + "\n"


def _shown(value: object) -> str:
    """A setting as text; a class path without its modules."""
    text = "" if value is None else str(value)
    return text.rsplit(".", 1)[-1] if text.startswith("dreamfusion.") else text


def _inert(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula: an apostrophe before one, except before a number."""
    return f"'{cell}" if FORMULA.match(cell) and isinstance(_number(cell), str) else cell


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
