"""`mode=benchmark` from the command line, at sizes of no meaning."""

import json
from xml.etree import ElementTree

TINY = [
    "mode=benchmark", "benchmark=quick", "mode.folder=out", "benchmark.rounds=2", "benchmark.baseline_rounds=2",
    "benchmark.baselines=together",
    "benchmark.points=200", "benchmark.log2_tables=[6]", "benchmark.step_sizes=[8]",
    "benchmark.scaling_points=[50,100]", "benchmark.scaling_sizes=[4,8]", "benchmark.scaling_views=[1,2]",
    "benchmark.threads=[1,2]", "benchmark.dream_steps=1", "field.levels=4", "field.log2_table_size=10",
    "field.max_resolution=64", "field.hidden=16", "renderer.steps=24", "renderer.resolution=16", "camera.size=16",
]  # fmt: skip


def test_a_benchmark_writes_a_table_a_plot_and_every_round(launch, tmp_path):
    ended = launch(tmp_path, *TINY)
    assert ended.status == 0, ended.text
    table = (tmp_path / "out" / "benchmark.md").read_text()
    for words in (
        "encode, forward and backward",
        "nerfstudio-style",
        "reads at random",
        "limit",
        "step with normals",
        "one thread",
        "prior",
    ):
        assert words in table
        assert words in ended.text
    content = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert set(content) == {"machine", "ratios", "steps", "curves"}
    assert set(content["curves"]) == {"points", "pixels a side", "views", "threads"}
    assert all(second > 0 for row in content["ratios"] for times in row["seconds"].values() for second in times)
    assert ElementTree.parse(tmp_path / "out" / "benchmark.svg").getroot().tag.endswith("svg")


def test_a_size_that_nothing_can_be_measured_with_is_refused(launch, tmp_path):
    ended = launch(tmp_path, "mode=benchmark", "benchmark.rounds=0")
    assert ended.status == 1
    assert "benchmark.rounds is 0; whole numbers of at least 1 are allowed" in ended.text
    ended = launch(tmp_path, "mode=benchmark", "benchmark.baselines=near")
    assert ended.status == 1 and "benchmark.baselines is 'near'; 'isolated' and 'together' are allowed" in ended.text


def test_an_unknown_benchmark_lists_the_known_ones(launch, tmp_path):
    ended = launch(tmp_path, "mode=benchmark", "benchmark=swift")
    assert ended.status == 1
    assert "full" in ended.text and "quick" in ended.text
