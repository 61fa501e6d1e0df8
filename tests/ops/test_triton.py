"""Triton's kernels as a GPU gets them: machine code, without a GPU; the other tests run them in the interpreter."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

OPS = Path(__file__).parents[2] / "dreamfusion" / "ops"
COMPILE = Path(__file__).with_name("compile_kernels.py")

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="no triton: no test runs its kernels; type pip install --no-deps -r requirements-test.lock",
)


def test_every_kernel_compiles_for_cuda_or_rocm_in_turn(tmp_path):
    """The interpreter takes programs that the compiler refuses, such as a variable that changes its shape in a loop.

    One target each, half of the time of two: what the compiler refuses before machine code it refuses for all.
    """
    targets = ("cuda:90", "hip:gfx942")
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(OPS.parents[1])}
    environment.pop("TRITON_INTERPRET")
    result = subprocess.run(
        [sys.executable, str(COMPILE), ",".join(targets)], env=environment, capture_output=True, text=True, timeout=1500
    )
    assert result.returncode == 0, result.stderr
    compiled = [tuple(line.split()[:3]) for line in result.stdout.splitlines()]
    sources = {path.parent.name: path.read_text(encoding="utf-8") for path in OPS.glob("*/triton.py")}
    launched = {(op, kernel) for op, source in sources.items() for kernel in re.findall(r"launch\((_\w+),", source)}
    assert len(launched) == 14
    assert {(op, kernel) for _, op, kernel in compiled} == launched
    assert {target for target, *_ in compiled} == set(targets)
