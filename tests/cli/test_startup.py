"""The start of a command is fast."""

import json
import os
import subprocess
import sys

import pytest

from dreamfusion.cli.startup import SPIN


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """After the imports of a training: is garbage collection off, then on, what does it leave out, what is imported."""
    code = (
        "import gc, json, sys\n"
        "from dreamfusion.cli.startup import quick_start, resume_gc\n"
        "quick_start()\n"
        "import dreamfusion.mode.train\n"
        "paused, imported = not gc.isenabled(), list(sys.modules)\n"
        "resume_gc()\n"
        "quick_start()\n"
        "print(json.dumps([paused, gc.isenabled(), gc.get_freeze_count(), imported]))\n"
    )
    return json.loads(python(code, tmp_path_factory.mktemp("started")))


def python(code, cwd):
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, check=True)
    return ended.stdout


def test_garbage_collection_is_off_during_the_first_imports_only(started):
    paused, resumed, frozen, _ = started
    assert paused and resumed and frozen > 100_000


def test_torchs_threads_spin_briefly_unless_the_user_sets_a_policy(tmp_path):
    code = "import os; from dreamfusion.cli import startup as s; s.quick_start(); print(os.getenv('GOMP_SPINCOUNT'))"
    asked = {"GOMP_SPINCOUNT": "7", "OMP_WAIT_POLICY": "PASSIVE"}
    mine = {key: value for key, value in os.environ.items() if key not in asked}
    said = [
        subprocess.check_output([sys.executable, "-c", code], text=True, cwd=tmp_path, env=mine | more).strip()
        for more in ({}, {"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "PASSIVE"})
    ]
    assert said == [str(SPIN), "7", "None"]


def test_training_imports_neither_mesh_libraries_nor_wandb_before_the_first_step(started):
    *_, imported = started
    assert "lightning" in imported
    assert not {"trimesh", "skimage", "xatlas", "wandb", "fast_simplification"} & set(imported)


def test_a_mistake_is_answered_before_torch_is_imported(tmp_path):
    """A command takes about a second without torch, and many with it."""
    (tmp_path / "empty").mkdir()
    mistakes = {
        "promt=a": "did you mean prompt?",
        "guidance=SD": "did you mean guidance=sd?",
        "seed=1": 'there is no prompt; type prompt="a cat"',
        "prompt=a seed=b": "seed is b; it must be a whole number from 0 to",
        "prompt=a trainer.max_steps=x": "trainer.max_steps is x; it must be a whole number of at least 1",
        "prompt=a export.resolution=2": "export.resolution is 2; it is 8 to 1024 cells a side",
        "prompt=a start=nix": "no checkpoint at nix",
        "prompt=a guidance.weights=nix": "guidance.weights=nix: no such file or folder",
        "prompt=a guidance=sd guidance.model=./empty": "guidance.model=./empty: no weights in this folder",
        "prompts.file=nix": "cannot read prompts.file=nix: No such file",
        "config=nix": "there is no file nix; type config=... with the config.yaml of a run",
        "checkpoint=nix": "no checkpoint at nix",
        "mode=export": "has a checkpoint yet",
        "mode=view run=nix": "no run at nix",
        "mode=gallery study=nix": "no run at",
        "mode=sample": "there is no prompt",
    }
    code = (
        "import sys\n"
        "from hydra.core.global_hydra import GlobalHydra\n"
        "from dreamfusion.cli.command import run_command\n"
        f"for words in {list(mistakes)}:\n"
        "    sys.argv[1:] = words.split()\n"
        "    GlobalHydra.instance().clear()\n"
        "    try:\n"
        "        run_command()\n"
        "    except SystemExit as end:\n"
        "        print(end.code, {'torch', 'lightning', 'numpy'} & set(sys.modules), sep='|')\n"
    )
    answers = python(code, tmp_path).splitlines()
    assert len(answers) == len(mistakes)
    for answer, (words, sentence) in zip(answers, mistakes.items(), strict=True):
        message, _, heavy = answer.rpartition("|")
        assert message.startswith("error: "), words
        assert sentence in message, words
        assert heavy == "set()", words
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
