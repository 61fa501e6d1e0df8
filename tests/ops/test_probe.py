"""The check of a GPU's kernels in another process, with stand-ins for builds that fail, hang, abort or disagree."""

import json
import time

import psutil
import pytest
import torch
from options import available

from dreamfusion.ops import parity, probe

CPU = torch.device("cpu")
BUILDS = {  # what the library does at its import -> the reason
    "raise RuntimeError('lerp is ambiguous')": "does not load (RuntimeError: lerp is ambiguous)",
    "raise SystemExit(3)": "ended with status 3",
    "import os; os.abort()": "ended with status -6",
    "import time; print('waiting for lock', flush=True); time.sleep(600)": "were not built and checked within 2 s",
}


@pytest.fixture(autouse=True)
def own_verdicts(monkeypatch, tmp_path):
    monkeypatch.setattr(probe, "VERDICTS", tmp_path / "cache" / "kernels.json")


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """Put a library with this source where Python finds it."""

    def make(name, source):
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)

    return make


@pytest.mark.parametrize("source", BUILDS)
def test_a_build_that_fails_aborts_or_hangs_is_one_reason(stand_in, source):
    stand_in("standin_kernels", source)
    began = time.monotonic()
    assert BUILDS[source] in probe.failure("standin_kernels", "meta", limit=2.0 if "sleep" in source else 900.0)
    if "sleep" in source:
        assert time.monotonic() - began < 600  # the library would sleep longer
        assert not [one for one in psutil.Process().children() if "dreamfusion.ops.probe" in one.cmdline()]


def test_the_verdict_is_kept_until_the_library_changes_or_a_check_is_asked_for(stand_in, monkeypatch):
    stand_in("standin_kernels", "raise RuntimeError('one')")
    first = probe.failure("standin_kernels", "meta")
    monkeypatch.setattr(probe, "_check", lambda *given: {probe.EVERY: "checked again", "march": ""})
    assert probe.failure("standin_kernels", "meta") == first
    assert probe.failure("standin_kernels", "meta", again=True) == "checked again"
    assert list(json.loads(probe.VERDICTS.read_text()).values()) == [{probe.EVERY: "checked again", "march": ""}]
    probe.VERDICTS.write_text("{")  # damaged
    assert probe.failure("standin_kernels", "meta") == "checked again"


@pytest.mark.parametrize("reason", ["march fails: OutOfMemoryError: CUDA out of memory. Tried", "busy or unavailable"])
def test_a_gpu_that_another_process_fills_is_no_verdict(monkeypatch, reason):
    found = {probe.EVERY: "", "march": reason}
    monkeypatch.setattr(probe, "_check", lambda *given: found)
    assert probe.failure("standin_kernels", "meta", "march") == reason
    found = {probe.EVERY: ""}
    assert probe.failure("standin_kernels", "meta", "march") is None


def test_the_check_runs_on_the_gpu_that_this_process_uses(monkeypatch, stand_in):
    """The first one may be another card, or full."""
    commands, used = [], []

    def start(command, **options):
        commands.append(command)
        raise OSError

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(probe.subprocess, "Popen", start)
    for device in ("cuda", "meta"):
        with pytest.raises(OSError):
            probe._check("standin_kernels", device, 1.0)
    assert [command[-1] for command in commands] == ["cuda:1", "meta"]
    stand_in("standin_kernels", "")
    monkeypatch.setattr(torch.cuda, "set_device", used.append)
    monkeypatch.setattr(parity, "operations", lambda kernel, device: ["march"])
    monkeypatch.setattr(parity, "disagreement", lambda op, kernel, device: used.append(str(device)))
    assert dict(probe.main("standin_kernels", "cuda:1")) == {"march": "", probe.EVERY: ""}
    assert used == ["cuda:1", "cuda:1"]


def test_an_operation_that_disagrees_with_the_reference_leaves_the_others_in_use(monkeypatch):
    monkeypatch.setattr(parity, "disagreement", lambda op, kernel, device: "differs" if op == "splat" else None)
    found = dict(probe.main("numba", "cpu"))
    assert found == dict.fromkeys((*parity.OPERATIONS, probe.EVERY), "") | {"splat": "numba: differs"}
    monkeypatch.setattr(probe, "_check", lambda *given: found)
    assert probe.failure("numba", "meta", "splat") == "numba: differs"
    assert probe.failure("numba", "meta", "march") is None


def test_a_check_that_aborts_keeps_the_verdicts_before(stand_in):
    """As where the kernel of one operation poisons the context."""
    source = """
import os
from dreamfusion.ops import parity
parity.operations = lambda *given: ["march", "composite", "splat"]
parity.disagreement = lambda op, *given: {"march": None, "composite": "differs"}[op] if op != "splat" else os.abort()
"""
    stand_in("standin_kernels", source)
    march, composite, splat = (probe.failure("standin_kernels", "meta", op) for op in ("march", "composite", "splat"))
    assert march is None and composite == "standin_kernels: differs"
    assert "the check of standin_kernels ended with status -6" in splat


def test_the_checking_process_starts_no_other(monkeypatch):
    monkeypatch.setenv(probe.INSIDE, "1")
    monkeypatch.setattr(probe, "_check", lambda *given: pytest.fail("another process"))
    assert probe.failure("standin_kernels", "cuda") is None


def test_kernels_without_their_compiler_and_any_cuda_library_on_rocm_are_unfit(monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(probe.shutil, "which", lambda name: None)
    assert "no nvcc" in probe.failure("nerfacc", "cuda")
    assert "no gcc or clang with Python.h here; apt install gcc python3-dev" in probe.failure("triton", "cuda")
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert probe.failure("tinycudann", "cuda") == "tinycudann has no kernels for ROCm"


def test_a_lock_of_an_interrupted_build_is_removed_and_that_of_a_running_one_is_not(monkeypatch, tmp_path):
    import torch.utils.cpp_extension

    monkeypatch.setattr(torch.utils.cpp_extension, "_get_build_directory", lambda name, verbose: str(tmp_path))
    lock = tmp_path / "lock"
    lock.touch()
    probe._remove_lock(lambda made: time.time() - made > probe.STALE)
    assert lock.exists()
    probe._remove_lock(lambda made: made >= lock.stat().st_mtime)
    assert not lock.exists()


@pytest.mark.parametrize("op", list(parity._CASES))
def test_the_kernels_of_this_machine_agree_with_the_reference(op):
    for name in available(op, CPU):
        assert parity.deviation(op, name, CPU) < 1e-4


def test_a_wrong_value_and_an_error_are_a_disagreement(monkeypatch):
    right = parity._CASES["composite"]
    wrong = lambda *given: {name: part * 1.01 for name, part in right(*given).items()}  # noqa: E731
    expected = right("torch", CPU, torch.Generator().manual_seed(0))
    monkeypatch.setattr(parity, "_outputs", lambda op, backend, device: expected)
    assert parity.disagreement("composite", "torch", CPU) is None
    answers = iter([expected, wrong("torch", CPU, torch.Generator().manual_seed(0))])
    monkeypatch.setattr(parity, "_outputs", lambda *given: next(answers))
    assert "differs from the reference by 0.01" in parity.disagreement("composite", "torch", CPU)
    monkeypatch.setattr(parity, "_outputs", lambda *given: 1 / 0)
    assert parity.disagreement("composite", "torch", CPU) == "composite fails: ZeroDivisionError: division by zero"
