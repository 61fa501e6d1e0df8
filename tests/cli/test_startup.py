"""The start of a command is fast."""

import os
import subprocess
import sys

from dreamfusion.cli.startup import SPIN


def python(code, cwd):
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, check=True)
    return ended.stdout


def test_garbage_collection_is_off_during_the_first_imports_only(tmp_path):
    said = python(
        "import gc\n"
        "from dreamfusion.cli.startup import quick_start, resume_gc\n"
        "quick_start()\n"
        "import lightning\n"
        "paused = not gc.isenabled()\n"
        "resume_gc()\n"
        "quick_start()\n"
        "print(paused, gc.isenabled(), gc.get_freeze_count() > 100_000)\n",
        tmp_path,
    )
    assert said == "True True True\n"


def test_torchs_threads_spin_briefly_unless_the_user_sets_a_policy(tmp_path):
    code = "import os; from dreamfusion.cli import startup as s; s.quick_start(); print(os.getenv('GOMP_SPINCOUNT'))"
    asked = {"GOMP_SPINCOUNT": "7", "OMP_WAIT_POLICY": "PASSIVE"}
    mine = {key: value for key, value in os.environ.items() if key not in asked}
    said = [
        subprocess.check_output([sys.executable, "-c", code], text=True, cwd=tmp_path, env=mine | more).strip()
        for more in ({}, {"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "PASSIVE"})
    ]
    assert said == [str(SPIN), "7", "None"]


def test_training_imports_neither_mesh_libraries_nor_wandb_before_the_first_step(tmp_path):
    said = python(
        "import sys\n"
        "import dreamfusion.mode.train\n"
        "print(sorted({'trimesh', 'skimage', 'xatlas', 'wandb', 'fast_simplification'} & set(sys.modules)))\n",
        tmp_path,
    )
    assert said == "[]\n"
