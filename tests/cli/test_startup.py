"""The beginning of a command: what is left out is left out, and nothing else changes."""

import os
import subprocess
import sys
from pathlib import Path

from dreamfusion.cli.startup import SPIN

ROOT = Path(__file__).parents[1]


def python(code, cwd):
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, check=True)
    return ended.stdout


def test_lightning_comes_without_the_packages_of_torchmetrics_and_the_collector_goes_back_to_work(tmp_path):
    said = python(
        "import gc, sys\n"
        "from dreamfusion.cli.startup import UNUSED, quick_start, settle\n"
        "quick_start()\n"
        "import lightning\n"
        "paused = not gc.isenabled()\n"
        "settle()\n"
        "quick_start()\n"
        "print(paused, gc.isenabled(), gc.get_freeze_count() > 100_000, sorted(set(UNUSED) & set(sys.modules)))\n"
        "import scipy.signal, transformers, torchmetrics\n"
        "print(torchmetrics.MeanMetric()([1.0, 3.0]).item())\n",
        tmp_path,
    )
    assert said.splitlines() == ["True True True []", "2.0"]


def test_threads_of_torch_wait_briefly_unless_the_user_says_otherwise(tmp_path):
    code = "import os; from dreamfusion.cli import startup as s; s.quick_start(); print(os.getenv('GOMP_SPINCOUNT'))"
    asked = {"GOMP_SPINCOUNT": "7", "OMP_WAIT_POLICY": "PASSIVE"}
    mine = {key: value for key, value in os.environ.items() if key not in asked}
    said = [
        subprocess.check_output([sys.executable, "-c", code], text=True, cwd=tmp_path, env=mine | more).strip()
        for more in ({}, {"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "PASSIVE"})
    ]
    assert said == [str(SPIN), "7", "None"]


def test_training_imports_neither_the_makers_of_meshes_nor_wandb_before_the_first_step(tmp_path):
    said = python(
        "import sys\n"
        "import dreamfusion.mode.train\n"
        "print(sorted({'trimesh', 'skimage', 'xatlas', 'wandb', 'fast_simplification'} & set(sys.modules)))\n",
        tmp_path,
    )
    assert said == "[]\n"


def test_the_help_is_what_hydra_says_without_the_short_cut(tmp_path):
    run = f"import runpy; runpy.run_path({str(ROOT / 'launch.py')!r}, run_name='__main__')\n"
    settings = "import sys; sys.argv = ['launch.py', '--help', 'camera=paper']\n"
    without = "from dreamfusion import startup; startup.quick_help = lambda: None\n"
    assert python(settings + run, tmp_path) == python(settings + without + run, tmp_path) != ""
