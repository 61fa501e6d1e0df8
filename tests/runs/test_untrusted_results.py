"""result.json and config.yaml from untrusted sources: no formula, no Markdown, no HTML, no code, no secret."""

import csv
import json

import pytest

from dreamfusion.runs.names import slug
from dreamfusion.runs.report import _inert, markdown, report

EVIL = "=cmd|' /C calc'!A0"


def write(folder, **changes):
    folder.mkdir(parents=True)
    content = {"prompt": "a cat", "seed": 0, "steps": 2, "seconds": 1.0, "scores": {}, "settings": {}} | changes
    (folder / "result.json").write_text(json.dumps(content))
    (folder / "config.yaml").write_text("prompt: !!python/object/apply:os.system ['touch owned']\n")


@pytest.mark.parametrize("text", [EVIL, " =1+1", "\t=1", "\n+1+x", "@SUM(A1)", "-2+3", "＝1+1", '"=1"', "+a"])
def test_a_cell_is_never_a_formula(text):
    assert _inert(text) == f"'{text}"


@pytest.mark.parametrize("text", ["-1.5", "+2", "1e-3", "a=b", "a cat", "", "-inf"])
def test_numbers_and_plain_text_stay_as_they_are(text):
    assert _inert(text) == text


def test_a_foreign_result_is_inert_in_every_column_of_the_report(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    monkeypatch.chdir(tmp_path)
    html = "<img src=x onerror=alert(1)>"
    first = {"prompt": f" {EVIL}", "scores": {EVIL: 1.0}, "settings": {"@a": html, "b": "${oc.env:SECRET}"}}
    write(tmp_path / "studies" / "s" / "=a" / "1", **first, pruned=EVIL)
    write(tmp_path / "studies" / "s" / "b" / "2", prompt=html, settings={"@a": "[x](javascript:alert(1))"})
    (tmp_path / "studies" / "s" / "b" / "2" / "config.yaml").write_text(f"prompt: '{html}'")
    folder = report("s", tmp_path / "studies")
    with (folder / "report.csv").open(newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell.strip()[:1] in ("=", "@", "+")]
    texts = {name: (folder / name).read_text() for name in ("report.csv", "report.md", "gallery.html")}
    assert not any("hunter2" in text for text in texts.values())
    for name in ("report.md", "gallery.html"):
        assert "<img src=x" not in texts[name]
    assert "[x](javascript" not in texts["report.md"]
    assert not (tmp_path / "owned").exists()


def test_markdown_shows_punctuation_as_text():
    head, row = ["prompt", "path"], ["*a* _b_ `c` ![d](e) |f <g> h_i & \\", "p](http://x"]
    line = markdown("a|b", [head, row], [], {}).splitlines()[-1]
    assert line == (
        r"| \*a\* \_b\_ \`c\` !\[d\](e) \|f &lt;g> h_i &amp; \\ | [p\](http://x](p%5D%28http%3A//x/index.html) |"
    )


@pytest.mark.parametrize("prompt", ["../../etc/passwd", "/etc/passwd", "a/b\\c", "..", "$(touch x)", "`x`", "a\0b"])
def test_a_prompt_is_never_a_path_or_a_command(prompt):
    assert not set(slug(prompt)) - set("abcdefghijklmnopqrstuvwxyz0123456789-")
