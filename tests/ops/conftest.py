"""Run each test on one thread unless it sets the number, and Triton's kernels in its interpreter."""

import importlib.util

import pytest
import torch
from options import interpreted_triton

if importlib.util.find_spec("triton"):
    with pytest.MonkeyPatch.context() as while_imported:  # triton reads the variable when it compiles a function
        while_imported.setenv("TRITON_INTERPRET", "1")
        import triton_interpreter

        triton_interpreter.prepare()


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def interpreted():
    with interpreted_triton():
        yield
