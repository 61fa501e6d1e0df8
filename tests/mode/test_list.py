"""`mode=list`: sizes, steps and scores of runs, the largest first."""

from results import CAT

from dreamfusion.runs.results import write_result


def test_the_table_has_a_line_for_each_run_and_the_sum(launch, tmp_path):
    for name, size in (("a", 1_000_000), ("b", 3_000_000)):
        folder = tmp_path / "outputs" / "train" / "a-cat" / name / "checkpoints"
        folder.mkdir(parents=True)
        (folder / "last.ckpt").write_bytes(bytes(size))
    write_result(CAT, tmp_path / "outputs" / "train" / "a-cat" / "a")
    ended = launch(tmp_path, "mode=list")
    assert ended.status == 0, ended.text
    lines = [line.split() for line in ended.text.splitlines()]
    assert lines[1] == ["3.0", "3.0", "-", "-", "-", "outputs/train/a-cat/b"]
    assert lines[2] == ["1.0", "1.0", "100", "12", "-", "outputs/train/a-cat/a"]
    assert lines[3][:2] == ["2", "runs,"]


def test_help_names_experiments_and_studies(launch, tmp_path):
    text = launch(tmp_path, "--help").text
    assert "-cd sweeps -cn NAME: ablation, gallery, guidance_scale, " in text
    assert "experiment: " in text
