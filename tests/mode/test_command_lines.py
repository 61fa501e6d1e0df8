"""Command lines with mistakes: each ends with one clear sentence and an exit status, before anything is made."""

import subprocess
import sys

import pytest
from launched import ROOT

from dreamfusion.cli import command, main

DREAM = ("prompt=a cat", "experiment=smoke")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["mode=null"], "mode=null names no option"),
        (["=3"], "Config group override must be a string or a list"),
        (["-m", "prompt=a", "camera=orbit,null"], "Config group override must be a string or a list"),
        (["--shell-completion"], "Expecting one subcommand"),
        (["--nix"], "unrecognized arguments: --nix"),
        (["--cfg", "nix"], "invalid choice: 'nix'"),
        (["nix=3"], "there is no setting nix; python launch.py --cfg job prints all of them, and +nix=3 adds it"),
        (["mode=nix"], "there is no option mode=nix; type mode=NAME, one of benchmark, "),
        (["~mode"], "a command has one mode; type mode=train"),
        ([*DREAM, "trainer.log_every_n_steps=0"], "trainer.log_every_n_steps is 0; it must be a whole number of at"),
        ([*DREAM, "trainer.accelerator=tpu"], "Requirement 'torch_xla>="),
        ([*DREAM, "+trainer.limit_train_batches=0.5"], "which would repeat the first cameras"),
        ([*DREAM, "objective=nix"], "objective is nix; the scores of a run are color_difference, prior_score"),
        ([*DREAM, "+callbacks.x=3"], "callbacks.x is 3; it must be a group of settings"),
        (["mode=gallery", "mode.output=null"], "mode.output is null; it must be text"),
    ],
    ids=lambda value: " ".join(value[-1:]) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_sentence(launch, tmp_path, arguments, sentence):
    ended = launch(tmp_path, *arguments)
    assert ended.status == 1
    last = ended.text.splitlines()[-1]
    assert last.startswith("error: ")
    assert sentence in last
    assert "Traceback" not in ended.text
    assert not list(tmp_path.glob("**/*.ckpt"))


def test_ctrl_c_during_the_imports_is_quiet(monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run_command", interrupt)
    with pytest.raises(SystemExit) as end:
        main.main()
    assert end.value.code == 130


def test_the_command_imports_nothing_before_it_catches_ctrl_c():
    code = "import sys, dreamfusion.cli.main; print({'hydra', 'omegaconf', 'argparse', 'logging'} & set(sys.modules))"
    loaded = subprocess.check_output([sys.executable, "-S", "-c", code], cwd=ROOT, text=True)
    assert loaded == "set()\n"
