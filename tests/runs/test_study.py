"""Results of a study: whole or not there, found again, and one process at a run."""

import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from results import CAT, with_settings

from dreamfusion.error import UserError
from dreamfusion.runs.lock import Locked, locked
from dreamfusion.runs.results import RESULT, read_result, write_result
from dreamfusion.runs.settings import run_settings
from dreamfusion.runs.study import differing, read_study, unfinished


def test_a_result_is_read_as_it_was_written_wherever_its_folder_is_now(tmp_path):
    result = replace(CAT, prompt='ein Bär 🐈 | "x"', pruned="it shows nothing")
    write_result(result, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [RESULT]
    (tmp_path / "run").rename(tmp_path / "moved")
    assert read_result(tmp_path / "moved") == replace(result, path=tmp_path / "moved")


def test_a_run_without_a_result_is_not_finished(tmp_path):
    assert read_result(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"prompt": "a cat"}'])
def test_a_file_that_is_no_result_is_named(tmp_path, text):
    (tmp_path / RESULT).write_text(text)
    with pytest.raises(UserError, match=f"{RESULT} is not the result of a run; remove it"):
        read_result(tmp_path)


def test_a_study_is_its_finished_runs_in_order_and_those_without_a_result_are_named(tmp_path):
    for name, result in {
        "a-dog/1": replace(CAT, prompt="a dog"),
        "a-cat/9": CAT,
        "a-cat/1": replace(CAT, seed=1),
    }.items():
        write_result(result, tmp_path / "my-study" / name)
    begun = tmp_path / "my-study" / "a-cow" / "2"
    begun.mkdir(parents=True)
    (begun / "config.yaml").touch()
    found = read_study("My study", tmp_path)
    assert [(r.prompt, r.seed, r.path.name) for r in found] == [("a cat", 0, "9"), ("a cat", 1, "1"), ("a dog", 0, "1")]
    assert unfinished("My study", tmp_path) == [begun]


def test_an_unknown_study_lists_the_known_ones(tmp_path):
    with pytest.raises(UserError, match=r"no study is named x; there is none in .* yet"):
        read_study("x", tmp_path / "nowhere")
    (tmp_path / "gallery").mkdir()
    with pytest.raises(UserError, match="no study is named x; there are gallery; type study=NAME"):
        read_study("x", tmp_path)


def test_what_differs_is_named_once_and_prompt_and_seed_are_not():
    runs = [with_settings(seed=s, system__seed=s, system__views=v, a=1) for s in (0, 1) for v in (2, 4)]
    assert differing(runs) == ["system.views"]
    assert differing(runs[:1]) == []
    assert differing([]) == []


def test_of_another_choice_of_a_group_only_the_choice_is_named():
    plain = with_settings(**{"prompting._target_": "plain", "prompting.negative": ""})
    views = with_settings(**{"prompting._target_": "views", "prompting.negative": "ugly", "prompting.front": 45})
    assert differing([plain, views]) == ["prompting._target_", "prompting.negative"]


def test_settings_are_flat_and_resolved_and_without_what_changes_nothing():
    cfg = OmegaConf.create({"seed": 3, "system": {"seed": "${seed}", "size": [[0, 1]], "empty": {}}, "study": "x"})
    assert run_settings(cfg) == {"seed": 3, "system.seed": 3, "system.size": [[0, 1]], "system.empty": {}}


def hold(folder, held):
    with locked(Path(folder)):
        held.send(True)
        held.recv()


def test_a_run_has_one_process_at_a_time_and_a_killed_one_leaves_it_free(tmp_path):
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=hold, args=(str(tmp_path), there))
    process.start()
    assert here.recv()
    with (
        pytest.raises(Locked, match=r"another process is at work in .*; the same command later goes on"),
        locked(tmp_path),
    ):
        pass
    process.kill()
    process.join()
    with locked(tmp_path), pytest.raises(Locked), locked(tmp_path):
        pass
    assert not list(tmp_path.iterdir())
