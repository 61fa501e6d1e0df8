"""docs/course.md: its commands run, with small scenes."""

import pytest
from launched import ROOT
from test_docs import commands

COURSE = list(commands(ROOT / "docs" / "course.md"))
SMALL = ["field.levels=4", "field.log2_table_size=10", "field.max_resolution=64", "field.hidden=16", "camera.views=1"]
SMALL += ["camera.size=16", "trainer.max_steps=2", "mode.preview_every=0", "mode.turntable_frames=1"]
SMALL += ["mode.turntable_size=32", "mode.score_views=1", "export.resolution=16", "export.texture=0"]
SMALL += ["export.threshold=5", "mode.evaluate=false", "trainer.log_every_n_steps=100"]


@pytest.mark.parametrize("number", range(3))
def test_a_command_of_the_first_exercise_runs(number, launch, tmp_path):
    ended = launch(tmp_path, *COURSE[number], "mode.steps=3", "mode.images=2")
    assert ended.status == 0, ended.text
    assert list(tmp_path.glob("outputs/image/*/*/images.png"))


def test_the_homework_ends_in_a_report(launch, tmp_path):
    *_, bound, study, report = COURSE
    assert launch(tmp_path, *bound, *SMALL).status == 0
    assert launch(tmp_path, *study, *SMALL, "prompt=a cat", "seed=0", "distillation=sds").status == 0
    ended = launch(tmp_path, *report)
    assert ended.status == 0, ended.text
    assert "1 finished run," in (tmp_path / "outputs" / "studies" / "homework" / "report.md").read_text()
