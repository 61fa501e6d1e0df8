"""Results of a study are complete or missing, and one process at a time runs a run."""

import json
import multiprocessing
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from results import CAT, with_settings

from dreamfusion.error import UserError
from dreamfusion.runs.lock import Locked, locked
from dreamfusion.runs.report import report
from dreamfusion.runs.results import RESULT, read_result, write_result
from dreamfusion.runs.settings import run_settings
from dreamfusion.runs.study import differing, existing_study, finished, unfinished


def test_a_result_survives_a_round_trip_and_a_move_of_its_folder(tmp_path):
    result = replace(CAT, prompt='ein Bär 🐈 | "x"', pruned="it shows nothing")
    write_result(result, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [RESULT]
    (tmp_path / "run").rename(tmp_path / "moved")
    assert read_result(tmp_path / "moved") == replace(result, path=tmp_path / "moved")


def test_a_run_without_a_result_is_not_finished(tmp_path):
    assert read_result(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"prompt": "a cat"}', "[" * 10_000])
def test_an_invalid_result_file_is_named(tmp_path, text):
    (tmp_path / RESULT).write_text(text)
    with pytest.raises(UserError, match=f"{RESULT} is not the result of a run; remove the file"):
        read_result(tmp_path)


ODD = [None, True, 3, 1e308, 10**400, "x", [1], {"a": {}}, float("inf"), float("nan")]


@pytest.mark.parametrize("name", ["prompt", "seed", "steps", "seconds", "scores", "settings", "pruned", "unknown"])
def test_a_result_with_any_value_of_any_type_is_reported_or_named(name, tmp_path, caplog):
    content = {"prompt": "a cat", "seed": 0, "steps": 2, "seconds": 1.0, "scores": {}, "settings": {}}
    for number, odd in enumerate([*ODD, *({"volume_iou": odd} for odd in ODD)]):
        folder = tmp_path / "studies" / "odd" / "a-cat" / str(number)
        folder.mkdir(parents=True)
        (folder / RESULT).write_text(json.dumps(content | {name: odd}))
    report("odd", tmp_path / "studies")
    shown = (tmp_path / "studies" / "odd" / "report.csv").read_text().count("\n") - 1
    assert shown + caplog.text.count("is not the result of a run") == 2 * len(ODD)


def test_a_study_lists_its_finished_runs_in_order_and_its_unfinished_runs(tmp_path):
    for name, result in {
        "a-dog/1": replace(CAT, prompt="a dog"),
        "a-cat/9": CAT,
        "a-cat/1": replace(CAT, seed=1),
    }.items():
        write_result(result, tmp_path / "my-study" / name)
    begun = tmp_path / "my-study" / "a-cow" / "2"
    begun.mkdir(parents=True)
    (begun / "config.yaml").touch()
    found = finished(existing_study("My study", tmp_path))
    assert [(r.prompt, r.seed, r.path.name) for r in found] == [("a cat", 0, "9"), ("a cat", 1, "1"), ("a dog", 0, "1")]
    assert unfinished(existing_study("My study", tmp_path)) == [begun]


def test_the_runs_of_a_study_are_in_the_order_of_what_differs(tmp_path):
    for name, value in {"1": 100, "2": 1, "3": 20}.items():
        for seed in (0, 1):
            run = replace(with_settings(seed=seed, guidance_scale=value), seed=seed)
            write_result(run, tmp_path / f"cat/{name}{seed}")
    found = finished(tmp_path)
    assert [(r.settings["guidance_scale"], r.seed) for r in found] == [(g, s) for g in (1, 20, 100) for s in (0, 1)]


def test_the_name_of_an_experiment_stands_for_what_it_sets():
    runs = [
        with_settings(**{"experiment": name, "prompting._target_": target, "lit": lit, "scale": scale})
        for name, target, lit in (("base", "plain", 0), ("views", "dependent", 0), ("light", "dependent", 1))
        for scale in (1, 2)
    ]
    assert differing(runs) == ["experiment", "scale"]


def test_an_unknown_study_lists_the_known_ones(tmp_path):
    with pytest.raises(UserError, match=r"no study is named x; type study=NAME \(in .*: none yet\)"):
        existing_study("x", tmp_path / "nowhere")
    (tmp_path / "gallery").mkdir()
    with pytest.raises(UserError, match=r"no study is named x; type study=NAME \(in .*: gallery\)"):
        existing_study("x", tmp_path)


def test_differing_settings_are_named_once_without_prompt_and_seed():
    runs = [with_settings(seed=s, system__seed=s, system__views=v, a=1) for s in (0, 1) for v in (2, 4)]
    assert differing(runs) == ["system.views"]
    assert differing(runs[:1]) == []
    assert differing([]) == []


def test_a_different_group_choice_hides_the_groups_settings():
    plain = with_settings(**{"prompting._target_": "plain", "prompting.negative": ""})
    views = with_settings(**{"prompting._target_": "views", "prompting.negative": "ugly", "prompting.front": 45})
    assert differing([plain, views]) == ["prompting._target_", "prompting.negative"]


def test_runs_of_one_option_that_differ_in_it_are_told_apart_beside_another_option():
    """Else the leaderboard would take both for one method."""
    sds = with_settings(**{"distillation._target_": "SDS"})
    vsd = [with_settings(**{"distillation._target_": "VSD", "distillation.rank": rank}) for rank in (4, 16)]
    assert differing([sds, vsd[0]]) == ["distillation._target_"]
    assert differing([sds, *vsd]) == ["distillation._target_", "distillation.rank"]


def test_run_settings_are_flat_resolved_and_without_ignored_ones():
    cfg = OmegaConf.create({"seed": 3, "system": {"seed": "${seed}", "size": [[0, 1]], "empty": {}}, "study": "x"})
    assert run_settings(cfg) == {"seed": 3, "system.seed": 3, "system.size": [[0, 1]], "system.empty": {}}


def hold(folder, held):
    with locked(Path(folder)):
        held.send(True)
        held.recv()


def test_one_process_at_a_time_locks_a_run_and_a_kill_releases_it(tmp_path):
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=hold, args=(str(tmp_path), there))
    process.start()
    assert here.recv()
    with (
        pytest.raises(Locked, match=r"another process is running in .*; repeat the command later to resume"),
        locked(tmp_path),
    ):
        pass
    process.kill()
    process.join()
    with locked(tmp_path), pytest.raises(Locked), locked(tmp_path):
        pass
    assert not list(tmp_path.iterdir())  # the lock is not left behind


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "{}", '{"prompt": 1}', json.dumps(asdict(replace(CAT, seconds="x")), default=str), "[" * 100_000],
)
def test_a_broken_result_is_named_and_the_others_are_shown(tmp_path, content, caplog):
    write_result(CAT, tmp_path / "a-cat" / "1")
    (tmp_path / "a-cat" / "2").mkdir()
    (tmp_path / "a-cat" / "2" / "result.json").write_text(content)
    assert [result.path.name for result in finished(tmp_path)] == ["1"]
    assert str(tmp_path / "a-cat" / "2" / "result.json") in caplog.text
