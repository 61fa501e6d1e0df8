"""`mode=report`: the same table as CSV and as Markdown."""

import csv
from dataclasses import replace

import pytest
from results import CAT, with_settings

from dreamfusion.runs.report import report
from dreamfusion.runs.results import write_result


@pytest.fixture
def study(tmp_path):
    """Three finished runs, one of them pruned, and an unfinished one."""
    folder = tmp_path / "weird"
    runs = {
        "a-cat/1": with_settings(system__views=2, guidance="dreamfusion.guidance.pocket.PocketPrior"),
        "a-cat/2": with_settings(system__views=4, guidance="other"),
        "pipe/3": replace(CAT, prompt="a | pipe <b> \\", scores={}, pruned="it shows nothing"),
    }
    for name, result in runs.items():
        write_result(result, folder / name)
    (folder / "a-dog" / "4").mkdir(parents=True)
    (folder / "a-dog" / "4" / "config.yaml").touch()
    report("weird", tmp_path)
    return folder


def test_the_table_has_a_row_for_each_finished_run_with_the_differing_settings(study):
    with (study / "report.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    views = {row["path"]: (row["system.views"], row["guidance"], row["silhouette_iou"], row["pruned"]) for row in rows}
    assert views == {
        "a-cat/1": ("2", "PocketPrior", "0.9700", ""),
        "a-cat/2": ("4", "other", "0.9700", ""),
        "pipe/3": ("", "", "", "it shows nothing"),
    }
    assert [(row["prompt"], row["seed"], row["steps"], row["seconds"]) for row in rows[:2]] == [
        ("a cat", "0", "100", "12.5")
    ] * 2


def test_the_markdown_table_links_the_runs_and_names_the_unfinished_ones(study):
    lines = (study / "report.md").read_text(encoding="utf-8").splitlines()
    assert lines[:3] == ["# weird", "", "3 finished runs, 1 unfinished."]
    table = [line for line in lines if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in table} == {10}
    assert "a \\| pipe &lt;b> \\\\" in table[-1]
    assert "[a-cat/1](a-cat/1/index.html)" in table[2]
    assert lines[-1] == "- a-dog/4"


def test_failed_runs_are_in_the_table_with_what_differs_and_their_whole_reasons(tmp_path):
    reason = "step 20 of 20: the optimizer explodes: a parameter of the scene is 1e+09; the learning rate is | high"
    write_result(with_settings(rate=0.5), tmp_path / "s" / "a-cat" / "1")
    for name in ("2", "3"):
        folder = tmp_path / "s" / "a-cat" / name
        write_result(replace(with_settings(rate=float(name)), scores={}, failed=reason), folder)
        (folder / "config.yaml").touch()
    write_result(with_settings(rate=3.0), tmp_path / "s" / "a-cat" / "3")  # it was repeated, and finished
    report("s", tmp_path)
    with (tmp_path / "s" / "report.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["rate"], row["silhouette_iou"], row["failed"]) for row in rows] == [
        ("0.5", "0.9700", ""), ("2.0", "", reason), ("3.0", "0.9700", ""),
    ]  # fmt: skip
    text = (tmp_path / "s" / "report.md").read_text(encoding="utf-8")
    assert "2 finished runs, 1 failed, 0 unfinished." in text and "Unfinished" not in text
    assert "[a-cat/2](a-cat/2/) |" in text and "[a-cat/3](a-cat/3/index.html) |" in text
    assert text.endswith(f"- a-cat/2: {reason.replace('|', chr(92) + '|')}\n")


def test_the_gallery_page_of_a_study_links_its_runs(study, tmp_path):
    assert not (study / "gallery.html").exists()  # its runs have no config.yaml
    for name in ("a-cat/1", "pipe/3"):
        (study / name / "config.yaml").write_text(f"prompt: {name}\n")
        (study / name / "index.html").touch()
    report("weird", tmp_path)
    page = (study / "gallery.html").read_text(encoding="utf-8")
    assert page.count('<article class="card">') == 2
    assert "<h1>weird</h1>" in page
    assert '<a href="./a-cat/1/index.html">a-cat/1</a>' in page


def test_a_report_needs_the_name_of_a_study(launch, tmp_path):
    ended = launch(tmp_path, "mode=report")
    assert ended.status == 1
    assert ended.text.strip() == "error: mode=report needs a study; type study=NAME (in outputs/studies: none yet)"
    ended = launch(tmp_path, "mode=report", "study=x")
    assert "error: no study is named x; type study=NAME (in outputs/studies: none yet)" in ended.text
    assert not list(tmp_path.glob("outputs/*"))
