"""One broken run does not hide the others."""

import numpy as np
import pytest

from dreamfusion.error import UserError
from dreamfusion.report.video import write_video
from dreamfusion.runs.gallery import gallery

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


def test_a_gallery_of_broken_runs_only_is_refused(runs, tmp_path):
    for folder in runs:
        (folder / "config.yaml").write_text("- 1")
    with pytest.raises(UserError, match="no run can be shown"):
        gallery(runs, "title", tmp_path / "gallery.html")
