"""Selection of a backend by device, installation, request and environment, and the thread pool."""

import importlib.util
import logging
import os
import subprocess
import sys
import threading
import time

import pytest
import torch
from options import available

from dreamfusion.error import UserError
from dreamfusion.ops import allocator, backend

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")


@pytest.fixture(autouse=True)
def fresh_choice(monkeypatch):
    monkeypatch.delenv("DREAMFUSION_OPS", raising=False)
    backend._choose.cache_clear()
    yield
    backend._choose.cache_clear()


def test_the_device_decides_first(monkeypatch):
    monkeypatch.setattr(backend, "missing", lambda kernel, device, op: None)
    assert backend.choose("hash_encode", CPU) == "numba"
    assert backend.choose("hash_encode", CUDA) == "tinycudann"
    assert backend.choose("march", CUDA) == backend.choose("composite", CUDA) == "nerfacc"
    assert backend.choose("march", MPS) == "torch"
    assert available("march", CUDA) == ("nerfacc", "triton", "torch")


def test_without_a_build_a_gpu_runs_every_operation_on_triton(monkeypatch):
    monkeypatch.setattr(backend, "missing", lambda kernel, device, op: None if kernel == "triton" else "no build")
    assert {backend.choose(op, CUDA) for op in backend._KERNELS} == {"triton"}


def test_triton_is_never_chosen_on_a_cpu_outside_of_its_tests(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    found = {"numba": None, "triton": "installed"}
    monkeypatch.setattr(importlib.util, "find_spec", found.get)
    assert backend.choose("march", CPU) == "torch"
    with pytest.raises(RuntimeError, match="'triton' was requested, but triton needs a GPU; TRITON_INTERPRET=1 runs"):
        backend.choose("march", CPU, "triton")


def test_a_missing_kernel_falls_back_to_the_reference_with_one_warning(monkeypatch, caplog):
    monkeypatch.setattr(backend, "missing", lambda kernel, device, op: f"{kernel} is not installed")
    with caplog.at_level(logging.WARNING):
        assert [backend.choose("hash_encode", CUDA) for _ in range(3)] == ["torch"] * 3
    (record,) = caplog.records
    for words in ("hash_encode", "tinycudann is not installed", "pip install --no-build-isolation"):
        assert words in record.getMessage()
    assert available("hash_encode", CUDA) == ("torch",)


def test_each_choice_is_logged_once(caplog):
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            backend.choose("march", CPU, "torch")
    assert [r.getMessage() for r in caplog.records] == ["march on cpu: torch"]


def test_the_environment_forces_the_reference_but_not_over_a_request(monkeypatch):
    monkeypatch.setenv("DREAMFUSION_OPS", "torch")
    assert backend.choose("march", CPU) == "torch"
    assert backend.choose("march", CPU, "numba") == "numba"
    monkeypatch.setenv("DREAMFUSION_OPS", "fast")
    with pytest.raises(ValueError, match="DREAMFUSION_OPS is 'fast', allowed are auto, torch, numba"):
        backend.choose("march", CPU)


def test_the_setting_ops_chooses_where_the_operation_has_the_backend(monkeypatch):
    monkeypatch.setenv("DREAMFUSION_OPS", "auto")  # restored after the test
    monkeypatch.setattr(backend, "missing", lambda kernel, device, op: None)
    backend.prefer("tinycudann")
    assert backend.choose("hash_encode", CUDA) == "tinycudann"
    assert backend.choose("march", CUDA) == "nerfacc" and backend.choose("march", CPU) == "numba"
    backend.prefer("torch")
    assert backend.choose("hash_encode", CUDA) == backend.choose("march", CPU) == "torch"
    backend.prefer("auto")
    assert backend.choose("hash_encode", CUDA) == "tinycudann"
    with pytest.raises(UserError, match=r"ops is fast; type ops=auto\|torch\|numba"):
        backend.prefer("fast")


def test_a_setting_that_cannot_be_used_is_one_sentence(monkeypatch):
    monkeypatch.setenv("DREAMFUSION_OPS", "nerfacc")
    monkeypatch.setattr(backend, "missing", lambda kernel, device, op: f"{kernel} is not installed")
    with pytest.raises(UserError, match=r"ops=nerfacc, but nerfacc is not installed.*type ops=auto"):
        backend.choose("march", CUDA)


def test_the_next_kernel_is_used_and_the_reason_said_once(monkeypatch, caplog):
    monkeypatch.setitem(backend._KERNELS["march"], "cuda", ("nerfacc", "numba"))
    monkeypatch.setitem(backend._KERNELS["composite"], "cuda", ("nerfacc", "numba"))
    monkeypatch.setattr(backend, "missing", lambda kernel, device, op: "no build" if kernel == "nerfacc" else None)
    backend._say.cache_clear()
    with caplog.at_level(logging.INFO):
        assert backend.choose("march", CUDA) == backend.choose("composite", CUDA) == "numba"
    assert sum("no build" in record.getMessage() for record in caplog.records) == 1


def test_an_impossible_request_names_the_reason_and_the_remedy(monkeypatch):
    with pytest.raises(ValueError, match="march has no backend 'nerfacc' on cpu, allowed are torch, numba"):
        backend.choose("march", CPU, "nerfacc")
    monkeypatch.setattr(backend, "missing", lambda kernel, device, op: f"{kernel} is not installed")
    with pytest.raises(RuntimeError, match=r"'numba' was requested, but numba is not installed.*pip install numba"):
        backend.choose("march", CPU, "numba")


def test_an_absent_or_broken_library_is_missing(monkeypatch, tmp_path):
    (tmp_path / "broken_kernels.py").write_text("raise OSError('Unknown compute capability')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert backend.missing("no_such_kernels", "cpu", "march") == "no_such_kernels is not installed"
    assert backend.missing("broken_kernels", "cpu", "march").endswith("not import (Unknown compute capability)")
    assert backend.missing("numba", "cpu", "march") is None


def test_few_points_run_on_this_thread_and_many_on_all():
    torch.set_num_threads(3)
    assert backend.parts(100) == 1 and backend.parts(100_000) == 3
    seen, together = set(), threading.Barrier(3)

    def task(_):
        together.wait(timeout=900)
        seen.add(threading.current_thread())

    backend.run_parallel(task, range(3))
    assert len(seen) == 3 and threading.main_thread() in seen


@pytest.mark.parametrize("pause", [0.0, 0.02], ids=["spinning", "longer than it spins"])
def test_every_item_runs_once_whichever_thread_is_slow(pause):
    torch.set_num_threads(3)
    done = []

    def task(i):
        time.sleep(0 if threading.current_thread() is threading.main_thread() else pause)
        done.append(i)

    for _ in range(20):
        done.clear()
        backend.run_parallel(task, range(40))
        assert sorted(done) == list(range(40))


@pytest.mark.parametrize("fails_here", [True, False], ids=["here", "on a thread"])
def test_an_error_is_raised_after_the_running_tasks_have_ended(fails_here):
    torch.set_num_threads(3)
    done, together = [], threading.Barrier(3)

    def task(_):
        together.wait(timeout=900)
        here = threading.current_thread() is threading.main_thread()
        if here == fails_here:
            raise ZeroDivisionError
        time.sleep(0.1)
        done.append(here)

    with pytest.raises(ZeroDivisionError):
        backend.run_parallel(task, range(3))
    assert done == ([False, False] if fails_here else [True])


@pytest.mark.parametrize("count", [0, 1, 100, 20_000])
def test_spans_cover_everything_once_at_whole_blocks(count):
    torch.set_num_threads(3)
    spans = backend.spans(count, 100_000, multiple=128)
    assert len(spans) <= 3 * backend._PIECES
    assert [i for begin, end in spans for i in range(begin, end)] == list(range(count))
    assert all(begin % 128 == 0 for begin, _ in spans)


FORK = """
import os, torch
from dreamfusion.ops import backend
torch.set_num_threads(2)
backend.run_parallel(abs, range(4))
child = os.fork()
if child == 0:
    backend.run_parallel(abs, range(4))
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_starts_its_own_threads():
    """DataLoader workers fork; without the reset the child would wait forever."""
    subprocess.run([sys.executable, "-c", FORK], check=True, timeout=900)


def test_importing_the_operations_imports_no_kernels():
    code = "import sys, dreamfusion.ops; print(sorted({'numba', 'nerfacc', 'tinycudann', 'triton'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=900)
    assert result.stdout.strip() == "[]"


def test_the_allocator_setting_can_be_disabled(monkeypatch):
    monkeypatch.setenv("DREAMFUSION_MALLOPT", "0")
    assert allocator.keep_large_blocks() is False


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_glibc_accepts_the_allocator_setting():
    code = "from dreamfusion.ops.allocator import keep_large_blocks as keep; print(keep())"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=900)
    assert result.stdout.strip() == "True"
