"""One broken run does not hide the others."""

import struct
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from results import with_settings

from dreamfusion.error import UserError
from dreamfusion.export.writer import glb_metadata
from dreamfusion.report.curves import read_curves
from dreamfusion.report.video import write_video
from dreamfusion.runs.gallery import gallery
from dreamfusion.runs.pruning import RUNGS, scores_of_other_runs
from dreamfusion.runs.report import report
from dreamfusion.runs.results import write_result
from dreamfusion.training.loggers import MetricsFile

BOMB = "\n".join(["a0: &a0 [x, x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60))])
BROKEN = [
    ("config.yaml", "prompt: ["),
    ("config.yaml", BOMB),
    ("config.yaml", "- 1"),
    ("turntable.mp4", ""),
    ("turntable.mp4", "no video"),
]


@pytest.fixture
def runs(tmp_path):
    folders = [tmp_path / "a-cat" / "1", tmp_path / "a-dog" / "2"]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(f"prompt: the {folder.parent.name}")
        write_video([np.zeros((16, 16, 3), np.uint8)] * 2, folder / "turntable.mp4")
    return folders


@pytest.mark.parametrize(("name", "content"), BROKEN)
def test_a_broken_run_is_named_and_left_out_of_the_gallery(runs, tmp_path, name, content, caplog):
    (runs[1] / name).write_text(content)
    gallery(runs, "title", tmp_path / "gallery.html")
    page = (tmp_path / "gallery.html").read_text()
    assert "the a-cat" in page
    assert "a-dog" not in page
    (line,) = (record.getMessage() for record in caplog.records)
    assert str(runs[1] / name) in line


@pytest.mark.parametrize("text", ["[", "[1]", '{"silhouette_iou": [1], "seconds": 1e999}', "[" * 10_000, '"x"'])
def test_broken_figures_of_a_run_are_left_out(runs, tmp_path, text):
    (runs[1] / "summary.json").write_text(text)
    gallery(runs, "title", tmp_path / "gallery.html")
    assert "the a-dog" in (tmp_path / "gallery.html").read_text()
    other = runs[0].with_name("3")
    other.mkdir()
    (other / RUNGS).write_text(text.replace("silhouette_iou", "0.25"))
    assert scores_of_other_runs(runs[0], 0.25) == []


def test_a_broken_picture_is_named_and_left_out_of_the_leaderboard(tmp_path, caplog):
    folders = [tmp_path / "lab" / "a-cat" / str(number) for number in range(3)]
    for folder in folders:
        write_result(replace(with_settings(x="[a](b)|"), scores={"volume_iou": 0.5}), folder)
        Image.new("RGB", (8, 4)).save(folder / "truth_check.png")
    for folder, content in zip(folders, (b"", bytes(200)), strict=False):
        (folder / "truth_check.png").write_bytes(content)
    write_result(replace(with_settings(x="other"), scores={"volume_iou": 0.5}), folders[2])
    report("lab", tmp_path)
    assert caplog.text.count("truth_check.png is not a picture") == 2
    assert (tmp_path / "lab" / "leaderboard.html").read_text().count("data:image/jpeg") == 1
    assert r"\[a\](b)\|" in (tmp_path / "lab" / "leaderboard.md").read_text()


HEAD = b"step,a\n0,1\n"
DAMAGE = [bytes(300_000), b"\xc2\xb2,1", b"x" * 200_000, b'"', b"0,1,2", b"9" * 5000 + b",1", b"\xff\xfe,\xff"]


@pytest.mark.parametrize("line", DAMAGE, ids=lambda line: str(line[:5]))
def test_a_damaged_line_of_the_metrics_costs_its_own_values_only(tmp_path, line):
    path = tmp_path / "metrics.csv"
    path.write_bytes(HEAD + line + b"\n1,2\n")
    assert [list(curve.values) for curve in read_curves(path)] == [[1, 2]]
    logger = MetricsFile(path)
    logger.log_metrics({"a": 3.0}, 2)
    logger.finalize("success")
    assert path.read_text().split() == ["step,a", "0,1", "1,2", "2,3.0"]


@pytest.mark.parametrize("text", ["[]", "3", '{"asset": 3}', '{"asset": {"extras": [1]}}', "[" * 10_000, "\0"])
def test_a_glb_of_another_program_has_no_metadata(tmp_path, text):
    header = text.encode()
    (tmp_path / "mesh.glb").write_bytes(
        struct.pack("<4sIII4s", b"glTF", 2, 20 + len(header), len(header), b"JSON") + header
    )
    assert glb_metadata(tmp_path / "mesh.glb") == {}


def test_a_gallery_of_broken_runs_only_is_refused(runs, tmp_path):
    for folder in runs:
        (folder / "config.yaml").write_text("- 1")
    with pytest.raises(UserError, match="no run can be shown"):
        gallery(runs, "title", tmp_path / "gallery.html")
