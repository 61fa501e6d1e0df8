"""The leaderboard of a study whose runs were scored against the laboratory's truth: leaderboard.html and .md."""

import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dreamfusion.error import UserError
from dreamfusion.files import replacing
from dreamfusion.report.curves import read_curves
from dreamfusion.report.leaderboard import Line, Score, Shown, Standing, as_jpeg, write_leaderboard
from dreamfusion.report.markdown import inert
from dreamfusion.runs.results import COMPARED, TRUE_HIGH, TRUE_LOW, Result, counted
from dreamfusion.runs.study import differing

log = logging.getLogger(__name__)
COLUMNS = ("seconds", *TRUE_HIGH, *TRUE_LOW)
SECONDS, CURVES = "truth/seconds", ("truth/psnr", "truth/silhouette_iou")  # columns of metrics.csv, see TrueScores
RESAMPLES, LEVEL = 1000, 0.9  # of the bootstrap, and the share of its medians that an interval contains
FEWEST = 5  # names of an interval: that of fewer is too narrow, and of one name and seed it has no width at all


def leaderboard(study: str, results: Sequence[Result], folder: Path, reference: str | None = None) -> list[Path]:
    """Write both files into `folder`, the best volume IoU first; returns them, none if no run has a true score.

    Args:
        results: of the finished runs and of those that failed, which are counted for each method.
        reference: words of the name of the row from which the others' differences are taken; None is the first row.

    Raises:
        UserError: not one row has `reference` in its name.
    """
    scored = [result for result in results if not result.pruned and set(result.scores) & {*TRUE_HIGH, *TRUE_LOW}]
    if not scored:
        return []
    by_method: dict[str, list[Result]] = defaultdict(list)
    failures = [result for result in results if result.failed]
    names = differing([*scored, *failures])
    for result in scored:
        by_method[_method(result, names)].append(result)
    failed = Counter(_method(result, names) for result in failures)
    together = set.intersection(*({(run.prompt, run.seed) for run in runs} for runs in by_method.values()))
    if together:  # the medians of an unfinished study would be over easier names for some methods
        by_method = {
            method: [run for run in runs if (run.prompt, run.seed) in together] for method, runs in by_method.items()
        }
        left_out = len(scored) - sum(map(len, by_method.values()))
        scored = [run for runs in by_method.values() for run in runs]
    methods = dict.fromkeys([*by_method, *failed])
    standings = [_standing(method, by_method.get(method, []), failed[method]) for method in methods]
    standings.sort(key=lambda s: -s.scores["volume_iou"].median if "volume_iou" in s.scores else np.inf)
    compared = _row(reference, standings)
    standings = [
        replace(standing, differences=differences(by_method.get(standing.method, []), by_method.get(compared, [])))
        if standing.method != compared
        else standing
        for standing in standings
    ]
    columns = [name for name in _names(scored) if any(name in standing.scores for standing in standings)]
    prompts, seeds = len({result.prompt for result in scored}), len({result.seed for result in scored})
    note = (
        f"Medians over {counted(prompts, 'name')} and {counted(seeds, 'seed')}, {counted(len(scored), 'run')}; "
        f"intervals, of {FEWEST} names or more: {LEVEL:.0%} of the medians of {RESAMPLES} resamples of names, "
        "and of the seeds of each."
        + (
            f" Left out: {counted(left_out, 'run')} whose name and seed some method lacks."
            if together and left_out
            else ""
        )
        + (f" {counted(len(failures), 'run')} failed, without a score; report.md says why." if failures else "")
        + ("" if together else " The methods have no name and seed in common: their rows cannot be compared.")
    )
    comparison = (
        f'Differences from "{compared}", between runs of the same name and seed: medians, and intervals as above, each '
        "for itself; bold where the interval excludes zero."
    )
    page, text = folder / "leaderboard.html", folder / "leaderboard.md"
    curves = {
        name: {method: line for method, runs in by_method.items() if (line := progress(runs, name))} for name in CURVES
    }
    write_leaderboard(standings, columns, curves, f"{study}: leaderboard", note, comparison, page)
    with replacing(text) as draft:
        draft.write_text(_markdown(study, standings, columns, note, comparison), encoding="utf-8")
    return [page, text]


def bootstrap(runs: Sequence[Result], score: str) -> Score | None:
    """The median of a score over the runs, and its interval if they have FEWEST names; None if no run has the score."""
    return _resampled([(run.prompt, value) for run in runs if (value := _score(run, score)) is not None])


def differences(runs: Sequence[Result], others: Sequence[Result]) -> dict[str, Score]:
    """The median of each score's difference between runs and others of the same name and seed, and its interval.

    A name's difficulty is the same for both: such an interval is narrower than those of the two medians.
    """
    pairs = {(run.prompt, run.seed): run for run in others}
    both = [(run, pairs[run.prompt, run.seed]) for run in runs if (run.prompt, run.seed) in pairs]
    found = {}
    for name in _names(runs):
        scores = [(one.prompt, _score(one, name), _score(other, name)) for one, other in both]
        median = _resampled(
            [(p, mine - theirs) for p, mine, theirs in scores if mine is not None and theirs is not None]
        )
        if median is not None:
            found[name] = median
    return found


def _names(runs: Sequence[Result]) -> list[str]:
    """The names of the scores: COLUMNS, and those of the group `scores`."""
    return [*COLUMNS, *sorted({name for run in runs for name in run.scores} - {*COMPARED})]


def _score(run: Result, name: str) -> float | None:
    return run.seconds if name == "seconds" else run.scores.get(name)


def _resampled(values: Sequence[tuple[str, float]]) -> Score | None:
    """The median of values, each with its name, and its interval if they have FEWEST names; None of no values.

    Resamples names with replacement, then the values of each: names differ more than seeds do.
    """
    by_name: dict[str, list[float]] = defaultdict(list)
    for name, value in values:
        by_name[name].append(value)
    if not by_name:
        return None
    groups, rng = list(by_name.values()), np.random.default_rng(0)
    median = float(np.median(np.concatenate(groups)))
    if len(groups) < FEWEST:
        return Score(median)
    medians = []
    for _ in range(RESAMPLES):
        drawn = (groups[i] for i in rng.integers(0, len(groups), len(groups)))
        medians.append(np.median(np.concatenate([rng.choice(one, len(one)) for one in drawn])))
    low, high = np.quantile(medians, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Score(median, float(low), float(high))


def progress(runs: Sequence[Result], score: str) -> Line | None:
    """Medians over the runs of seconds and of a score, at the steps at which all of them were scored; None if none."""
    found = []
    for run in runs:
        columns = {curve.name: curve for curve in read_curves(run.path / "metrics.csv")}
        if SECONDS in columns and score in columns:
            pairs = zip(columns[SECONDS].values, columns[score].values, strict=True)
            found.append(dict(zip(columns[SECONDS].steps, pairs, strict=True)))
    steps = sorted(set.intersection(*map(set, found))) if found else []
    if not steps:
        return None
    seconds, values = np.median([[one[step] for step in steps] for one in found], axis=0).T
    return Line(seconds, values)


def _method(result: Result, names: Sequence[str]) -> str:
    """The name of a row: the settings in which the methods differ."""
    return ", ".join(f"{_short(name)} {_value(result, name)}" for name in names) or "default"


def _row(reference: str | None, standings: Sequence[Standing]) -> str:
    """The name of the row with all words of `reference`."""
    rows = [standing.method for standing in standings]
    if reference is None:
        return rows[0]
    found = [row for row in rows if row == reference] or [
        row for row in rows if all(word in row for word in reference.split())
    ]
    if len(found) != 1:
        raise UserError(
            f"mode.reference={reference}: {len(found)} rows have these words in their names, expected one; the names "
            "are: " + "; ".join(rows)
        )
    return found[0]


def _standing(method: str, runs: Sequence[Result], failed: int) -> Standing:
    scores = {name: score for name in _names(runs) if (score := bootstrap(runs, name)) is not None}
    shown = []
    for run in runs:
        picture = run.path / "truth_check.png"
        if picture.is_file():
            figures = ", ".join(
                f"{name.replace('_', ' ')} {run.scores[name]:.3g}" for name in TRUE_HIGH if name in run.scores
            )
            try:
                shown.append(Shown(as_jpeg(picture), f"{run.prompt}, seed {run.seed}: {figures}"))
            except UserError as error:
                log.warning("left out: %s", error)
    return Standing(method, scores, shown, failed)


def _short(name: str) -> str:
    """The name of a setting without what every method has."""
    return name.removesuffix("._target_")


def _value(result: Result, name: str) -> str:
    return (
        str(result.settings.get(name)).rsplit(".", 1)[-1]
        if name.endswith("_target_")
        else str(result.settings.get(name))
    )


def _markdown(study: str, standings: Sequence[Standing], columns: Sequence[str], note: str, comparison: str) -> str:
    failures = any(standing.failed for standing in standings)
    heads = ["method", *(["failed"] if failures else []), *columns]
    lines = [f"# {inert(study)}", "", note, "", f"| {' | '.join(heads)} |", f"|---|{'--:|' * (len(heads) - 1)}"]
    for standing in standings:
        cells = [str(standing.failed)] if failures else []
        for score in map(standing.scores.get, columns):
            cells.append("" if score is None else f"{score.text} ({score.interval})" if score.interval else score.text)
        lines.append(f"| {inert(standing.method)} | {' | '.join(cells)} |")
    if any(standing.differences for standing in standings):
        lines += ["", inert(comparison), "", f"| method | {' | '.join(columns)} |", f"|---|{'--:|' * len(columns)}"]
    for standing in standings:
        if standing.differences:
            cells = [_difference(score) for score in map(standing.differences.get, columns)]
            lines.append(f"| {inert(standing.method)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _difference(score: Score | None) -> str:
    if score is None:
        return ""
    text = f"{score.median:+.3g}"
    return (f"**{text}**" if score.differs else text) + (f" ({score.interval})" if score.interval else "")
