"""Signals, early ends, damaged checkpoints and wrong commands lose no work of a run, and say how to finish it."""

import json
import shlex
import shutil
import signal
import tempfile

import pytest
from launched import PROMPT, QUICK, files
from omegaconf import OmegaConf

from dreamfusion.checkpoint import read_checkpoint
from dreamfusion.runs.lock import locked
from dreamfusion.training.callbacks import Previews


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of a finished run: the folder of the command, and the run's own."""
    shutil.copytree(finished.folder, tmp_path / "copy")
    return tmp_path / "copy", tmp_path / "copy" / finished.run.relative_to(finished.folder)


def contents(folder):
    return {name: (folder / name).read_bytes() for name in files(folder)}


def results(folder):
    return [json.loads(path.read_text()) for path in sorted(folder.glob("outputs/**/result.json"))]


@pytest.fixture
def signal_in_training(monkeypatch):
    """Raise a signal in this process once, after the given step has ended."""

    def at(number, step):
        def send(self, trainer, *arguments):
            if trainer.global_step == step and numbers:
                signal.raise_signal(numbers.pop())

        numbers = [number]
        monkeypatch.setattr(Previews, "on_train_batch_end", send)

    return at


def test_sigterm_stops_a_study_with_a_checkpoint_and_the_same_command_resumes(launch, tmp_path, signal_in_training):
    command = ["-m", "prompt=a cat,a dog", "study=two", "trainer.max_steps=3", "mode.checkpoint_every=0", *QUICK]
    signal_in_training(signal.SIGTERM, 1)
    ended = launch(tmp_path, *command)
    assert ended.status == 143, ended.text
    assert "stopped at step 2 of 3; repeat the command to resume" in ended.text
    assert "Traceback" not in ended.text
    assert results(tmp_path) == []
    (checkpoint,) = tmp_path.glob("outputs/studies/two/*/*/checkpoints/*.ckpt")  # the second run has not begun
    assert read_checkpoint(checkpoint)["global_step"] == 2
    ended = launch(tmp_path, *command)
    assert ended.status == 0, ended.text
    assert f"resuming from step 2 of {checkpoint.relative_to(tmp_path)}" in ended.text
    assert [result["steps"] for result in results(tmp_path)] == [3, 3]


def test_a_run_needs_no_tmpdir_and_a_signal_during_the_turntable_leaves_a_command_that_finishes_it(
    launch, tmp_path, monkeypatch
):
    def interrupted(*arguments):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with monkeypatch.context() as patch:
        patch.setattr("dreamfusion.runs.finish.turntable", interrupted)
        ended = launch(tmp_path, "prompt=a cat", *QUICK)
    assert ended.status == 143, ended.text
    *_, said, command = ended.text.strip().splitlines()
    assert said == "interrupted; the scene of step 2 is saved; to resume:"
    assert results(tmp_path) == []
    ended = launch(tmp_path, shlex.split(command)[-1])
    assert ended.status == 0, ended.text
    assert [result["steps"] for result in results(tmp_path)] == [2]
    assert not [name for name in files(tmp_path) if "/." in name]


def test_an_early_end_is_written_down_with_its_reason(launch, tmp_path):
    command = ["prompt=a cat", "study=short", "trainer.max_steps=3", "+trainer.max_time=00:00:00:00", *QUICK]
    assert launch(tmp_path, *command).status == 0
    (result,) = results(tmp_path)
    assert (result["steps"], result["pruned"]) == (0, "ended at step 0 of 3 by trainer.max_time")
    ended = launch(tmp_path, *command)
    assert "a cat, seed 0 is already finished (ended at step 0 of 3 by trainer.max_time): outputs" in ended.text


@pytest.mark.parametrize(
    ("setting", "made"),
    [("prompt=a dog", "prompt=a cat's"), ("field=hashgrid_fine", "field."), ("seed=7", "seed=0")],
    ids=["prompt", "field", "seed"],
)
def test_a_setting_of_the_checkpoint_is_not_changed_and_the_run_is_not_touched(copied, launch, setting, made):
    folder, _ = copied
    before = contents(folder)
    ended = launch(folder, "checkpoint=latest", setting)
    assert (ended.status, ended.text.count("\n")) == (1, 1), ended.text
    assert f"last.ckpt was made with {made}" in ended.text
    assert "type start=outputs/train/" in ended.text
    assert contents(folder) == before


def test_start_begins_a_new_run_from_the_scene_of_another(copied, launch, tmp_path):
    folder, run = copied
    before = contents(folder)
    ended = launch(folder, "prompt=a dog", f"start={run.relative_to(folder)}", "field.levels=3", *QUICK)
    assert (ended.status, ended.text.count("\nerror: ")) == (1, 1), ended.text
    assert "does not fit the one to be trained: it was made with field.levels=" in ended.text
    assert contents(folder) == before
    ended = launch(folder, "prompt=a dog", "start=latest", "optimizer.learning_rates.table=1e-9", *QUICK)
    assert ended.status == 0, ended.text
    (new,) = folder.glob("outputs/train/a-dog/*")
    assert {name: contents(folder)[name] for name in before} == before
    tables = [read_checkpoint(one / "checkpoints" / "last.ckpt")["state_dict"] for one in (run, new)]
    (name,) = [name for name in tables[0] if name.endswith("table")]
    assert (tables[0][name] - tables[1][name]).abs().max() < 1e-6


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(copied, launch):
    folder, run = copied
    run = run.rename(run.with_name("my cat"))
    last, previous = (run / "checkpoints" / name for name in ("last.ckpt", "previous.ckpt"))
    data = bytearray(last.read_bytes())
    previous.write_bytes(data)
    data[len(data) // 2] ^= 1
    last.write_bytes(data)
    (run / "result.json").unlink()
    before = contents(folder)
    ended = launch(folder, "checkpoint=latest")
    assert (ended.status, ended.text.count("\n")) == (1, 1), ended.text
    assert f"type 'checkpoint={previous.relative_to(folder)}' for the one before it" in ended.text
    assert contents(folder) == before
    ended = launch(folder, f"checkpoint={previous.relative_to(folder)}")
    assert ended.status == 0, ended.text
    assert read_checkpoint(last)["global_step"] == 2
    assert previous.read_bytes() == before[str(previous.relative_to(folder))]
    assert [result["steps"] for result in results(folder)] == [2]


def test_a_locked_run_is_refused_by_name_and_strays_and_drafts_do_no_harm(copied, launch):
    folder, run = copied
    (run / "previews" / "note.png").write_bytes(b"not a preview")
    number = f"{4711:018}.draft"
    drafts = [run / "previews" / f".000002.{number}.png", run / f".turntable.{number}.mp4"]
    for draft in drafts:
        draft.touch()
    name = run.relative_to(folder)
    with locked(run):
        for command in (["checkpoint=latest"], ["mode=export"], ["mode=render"]):
            ended = launch(folder, *command)
            assert ended.status == 1
            assert f"error: another process is running in {name}" in ended.text
    assert not any(draft.exists() for draft in drafts)
    (before,) = results(folder)
    assert launch(folder, "checkpoint=latest").status == 0
    assert [result["seconds"] for result in results(folder)] == [before["seconds"]]  # nothing was trained
    assert OmegaConf.load(run / "config.yaml").prompt == PROMPT
