"""The leaderboard: medians and intervals of known numbers, and the page that shows them."""

import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from results import with_settings

from dreamfusion.error import UserError
from dreamfusion.report.leaderboard import Line, draw_lines
from dreamfusion.runs.leaderboard import bootstrap, differences, progress
from dreamfusion.runs.report import report
from dreamfusion.runs.results import check_objective, write_result
from dreamfusion.runs.study import finished


def runs(method, values, seconds=10.0):
    """A run for each (name, seed) of `values`."""
    return [
        replace(
            with_settings(distillation=method, prompt=name, seed=seed),
            prompt=name,
            seed=seed,
            seconds=seconds,
            scores={"volume_iou": value},
        )
        for (name, seed), value in values.items()
    ]


def test_the_interval_is_that_of_the_medians_over_names_and_seeds():
    values = np.linspace(0, 1, 101)
    score = bootstrap(runs("sds", {(f"a {i}", 0): v for i, v in enumerate(values)}), "volume_iou")
    assert score.median == 0.5
    # The median of 101 uniform draws has deviation 1 / (2 sqrt(101)): 90 % of them lie within 1.64 of it.
    assert score.low == pytest.approx(0.5 - 1.64 * 0.0498, abs=0.02)
    assert score.high == pytest.approx(0.5 + 1.64 * 0.0498, abs=0.02)
    for names, low in ((1, None), (4, None), (5, 0.3)):  # an interval of a few names says too much
        few = runs("sds", {(f"a {i}", seed): 0.3 for i in range(names) for seed in (0, 1)})
        assert (bootstrap(few, "volume_iou").median, bootstrap(few, "volume_iou").low) == (0.3, low)
    assert bootstrap(runs("sds", {("a", 0): 0.3}), "fscore_1") is None


def test_the_report_of_a_scored_study_ranks_methods_and_shows_their_runs(tmp_path):
    two = {("a cat", 0): 0.5, ("a dog", 0): 0.7}
    for method, better in (("sds", 0.0), ("csd", 0.2)):
        for number, run in enumerate(runs(method, {key: value + better for key, value in two.items()})):
            folder = tmp_path / "lab" / f"{run.prompt.replace(' ', '-')}" / f"{method}{number}"
            write_result(run, folder)
            Image.new("RGB", (8, 4), "red").save(folder / "truth_check.png")
    report("lab", tmp_path)
    text = (tmp_path / "lab" / "leaderboard.md").read_text()
    rows = [line for line in text[: text.index("Differences")].splitlines() if line.startswith("|")]
    assert rows[0] == "| method | seconds | volume_iou |"
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| distillation csd", "| distillation sds"]
    assert rows[2].endswith("| 0.8 |") and rows[3].endswith("| 0.6 |")
    assert "intervals, of 5 names or more: 90%" in (tmp_path / "lab" / "leaderboard.md").read_text()
    page = (tmp_path / "lab" / "leaderboard.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 4
    assert "a dog, seed 0: volume iou 0.9" in page and "http" not in page.split("<body>")[1]


def test_a_method_that_is_a_class_is_named_without_its_module(tmp_path):
    folder, chosen = tmp_path / "lab" / "runs", {"sds.SDS": 0.5, "vsd.VSD": 0.7}
    for place, value in chosen.items():
        run = with_settings(distillation___target_=f"dreamfusion.distillation.{place}", scene__radius=1.0 + value)
        write_result(replace(run, scores={"volume_iou": value}), folder / place)
    report("lab", tmp_path)
    text = (tmp_path / "lab" / "leaderboard.md").read_text()
    rows = [line.split(" | ")[0] for line in text[: text.index("Differences")].split("\n") if line]
    assert rows[-2:] == ["| distillation VSD, scene.radius 1.7", "| distillation SDS, scene.radius 1.5"]


def test_the_leaderboard_draws_quality_over_the_seconds_of_training(tmp_path):
    for seed, factor in ((0, 1.0), (1, 3.0)):
        for run in runs("$x_", {("a cat", seed): 0.5}) + runs("csd", {("a cat", seed): 0.7}):
            folder = tmp_path / "lab" / "a-cat" / f"{run.settings['distillation'].strip('$_')}{seed}"
            write_result(run, folder)
            rows = ["step,loss,truth/seconds,truth/psnr,truth/silhouette_iou", "0,1,,,"]
            rows += [f"{step},,{factor * step},{20 + step},0.{step}" for step in (9, 19, 29 + 10 * seed)]
            (folder / "metrics.csv").write_text("\n".join(rows))
    found = finished(tmp_path / "lab")
    line = progress(found, "truth/psnr")
    assert line.seconds.tolist() == [18, 38] and line.values.tolist() == [29, 39]  # of the steps that both seeds have
    report("lab", tmp_path)
    page = (tmp_path / "lab" / "leaderboard.html").read_text()
    drawn = page[page.index("<svg") : page.index("</svg>")]
    for text in ("truth psnr", "truth silhouette iou", "seconds of training", "distillation $x_", "distillation csd"):
        assert text in drawn
    assert progress(found, "truth/ssim") is None


def test_medians_are_over_names_and_seeds_that_all_methods_have(tmp_path):
    some = runs("sds", {("a cat", 0): 0.5, ("a ball", 0): 0.9}) + runs("csd", {("a cat", 0): 0.6, ("a cup", 0): 0.1})
    for number, run in enumerate(some):
        write_result(run, tmp_path / "lab" / "runs" / str(number))
    report("lab", tmp_path)
    text = (tmp_path / "lab" / "leaderboard.md").read_text()
    assert (
        "Medians over 1 name and 1 seed, 2 runs" in text
        and "Left out: 2 runs whose name and seed some method lacks." in text
    )
    assert text.count("| 10 | 0.6 |") == text.count("| 10 | 0.5 |") == 1
    write_result(some[3], tmp_path / "lab" / "runs" / "2")
    report("lab", tmp_path)
    assert "no name and seed in common" in (tmp_path / "lab" / "leaderboard.md").read_text()


def test_failed_runs_are_counted_for_each_method_though_they_have_no_score(tmp_path):
    some = runs("sds", {(f"a {i}", 0): 0.5 for i in range(5)}) + runs("csd", {("a 0", 0): 0, ("a 1", 0): 0})
    some += runs("vsd", {("a 0", 0): 0})
    for number, run in enumerate(some):
        ended = replace(run, scores={}, failed="step 9 of 20: it explodes") if number > 5 else run
        write_result(ended, tmp_path / "lab" / "runs" / str(number))
    report("lab", tmp_path)
    text = (tmp_path / "lab" / "leaderboard.md").read_text()
    rows = [line for line in text[: text.index("Differences")].splitlines() if line.startswith("|")]
    assert rows[0] == "| method | failed | seconds | volume_iou |"
    assert [row.split(" | ")[:2] for row in rows[2:]] == [
        ["| distillation sds", "0"], ["| distillation csd", "1"], ["| distillation vsd", "1"],
    ]  # fmt: skip
    assert "2 runs failed, without a score; report.md says why." in text
    assert '<td data-value="1">1</td>' in (tmp_path / "lab" / "leaderboard.html").read_text()


def test_differences_are_of_runs_of_the_same_name_and_seed(tmp_path):
    hard = {(f"a {i}", seed): i / 10 for i in range(8) for seed in (0, 1)}
    a_little_worse = {key: value - 0.01 - 0.002 * key[1] for key, value in hard.items()}
    mine, theirs = runs("sds", a_little_worse, seconds=12), runs("csd", hard)
    found = differences(mine, theirs[::-1])
    assert found["volume_iou"].median == pytest.approx(-0.011) and found["seconds"].median == 2
    assert -0.0121 < found["volume_iou"].low < -0.0099 and found["volume_iou"].differs  # though names differ by 0.7
    assert bootstrap(mine, "volume_iou").low < bootstrap(theirs, "volume_iou").median
    few = differences(mine[:6], theirs)
    assert few["volume_iou"].low is None and not few["volume_iou"].differs  # three names
    assert differences(mine, runs("csd", {("a 99", 0): 0.5})) == {}
    even = differences(runs("sds", {key: value + (-1) ** i for i, (key, value) in enumerate(hard.items())}), theirs)
    assert not even["volume_iou"].differs

    for number, run in enumerate([*mine, *theirs]):
        write_result(run, tmp_path / "lab" / "runs" / str(number))
    report("lab", tmp_path)
    text = (tmp_path / "lab" / "leaderboard.md").read_text()
    assert 'Differences from "distillation csd", between runs of the same name and seed' in text
    rows = [line for line in text.splitlines() if line.startswith("| distillation")]
    assert len(rows) == 3 and rows[2].startswith("| distillation sds | **+2** (2 to 2) | **-0.011** (-0.012 to -0.01)")
    report("lab", tmp_path, reference="sds")
    text, page = ((tmp_path / "lab" / f"leaderboard.{end}").read_text() for end in ("md", "html"))
    assert text.splitlines()[-1].startswith("| distillation csd | **-2** (-2 to -2) | **+0.011** (0.01 to 0.012)")
    assert "<b>+0.011</b><small>0.01 to 0.012</small>" in page
    for reference, number in (("distillation", 2), ("vsd", 0)):
        with pytest.raises(UserError, match=rf"mode.reference={reference}: {number} rows have these words"):
            report("lab", tmp_path, reference=reference)
    report("lab", tmp_path, reference="sds distillation")


def test_a_study_without_true_scores_has_no_leaderboard(tmp_path):
    write_result(with_settings(), tmp_path / "plain" / "a-cat" / "1")
    report("plain", tmp_path)
    assert not list(tmp_path.glob("plain/leaderboard*"))


def test_a_search_for_a_true_score_needs_the_evaluation():
    check_objective(["fscore_1", "prior_score"], evaluate=True)
    with pytest.raises(UserError, match=r"objective is fscore_1, which needs mode.evaluate=true"):
        check_objective("fscore_1")
    with pytest.raises(UserError, match=r"objective is fscore; .* with mode.evaluate=true azimuth_error, chamfer"):
        check_objective("fscore", evaluate=True)


def test_each_method_has_one_look_in_all_charts_and_no_other_has_it():
    line = Line(np.arange(3.0), np.arange(3.0))
    methods = [f"method {number}" for number in range(12)]
    svg = draw_lines({"psnr": dict.fromkeys(methods, line), "ssim": dict.fromkeys(methods[5:], line)})
    looks = re.findall(r'<path d="M[^"]*" clip-path="[^"]*" style="(fill: none; stroke[^"]*)"', svg)
    drawn = [look for look in looks if "currentColor" not in look]
    assert len(drawn) == 12 + 7 and len(set(drawn[:12])) == 12
    assert drawn[12:] == drawn[5:12]
    for text in re.findall(r"<text [^>]*>", svg):
        assert "currentColor" in text, "black on the dark ground"
