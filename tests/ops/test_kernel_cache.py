"""The cache of compiled kernels may fail in every way, and the kernel still runs."""

import errno
import os
import tempfile
from pathlib import Path

import numba
import pytest
from filelock import FileLock, Timeout

from dreamfusion.ops import kernel_cache
from dreamfusion.ops.kernel_cache import njit


def double(x):
    return 2 * x + 1


@pytest.fixture
def compiled(tmp_path, monkeypatch, caplog):
    """Compile and run a kernel as a new process would; returns how it was had: from the cache, or compiled."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))

    def run():
        kernel_cache._say.cache_clear()
        caplog.clear()
        kernel = njit(nogil=True)(double)
        assert [kernel(x) for x in range(5)] == [1, 3, 5, 7, 9]
        return "loaded" if kernel.stats.cache_hits else "compiled"

    return run


def test_a_second_process_loads_the_kernel(compiled, caplog):
    assert [compiled(), compiled()] == ["compiled", "loaded"]
    assert not caplog.records


def test_one_process_at_a_time_saves_to_a_folder_of_kernels(compiled, tmp_path, monkeypatch):
    """numba numbers the files of a kernel's variants: two at once would write two kernels to one file."""
    held = []

    def replace(source, target):
        with pytest.raises(Timeout):
            FileLock(Path(target).parent / ".lock", timeout=0).acquire()
        held.append(Path(target).suffix)
        move(source, target)

    move = os.replace
    monkeypatch.setattr(os, "replace", replace)
    compiled()
    assert sorted(held) == [".nbc", ".nbi"]


def flip(content):
    return content[:-200] + bytes([content[-200] ^ 1]) + content[-199:]


DAMAGES = {"truncated": lambda c: c[: len(c) // 2], "empty": lambda c: b"", "zeros": lambda c: bytes(len(c))}


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", [*DAMAGES.values(), flip], ids=[*DAMAGES, "a bit"])
def test_a_damaged_entry_is_compiled_again_with_one_line_and_is_whole_after_it(
    compiled, damage, suffix, tmp_path, caplog
):
    compiled()
    (path,) = tmp_path.glob(f"*/*.{suffix}")
    path.write_bytes(damage(path.read_bytes()))
    if (suffix, damage) != ("nbi", flip):  # a bit of the source's hash: an old entry, not a damaged one
        assert compiled() == "compiled"
        (line,) = (record.getMessage() for record in caplog.records)
        assert line.startswith(f"damaged compiled kernels in {path.parent} are compiled again (")
    else:
        compiled()
    assert compiled() == "loaded"
    assert not caplog.records


def test_on_a_full_disk_a_kernel_runs_and_no_entry_is_left_that_may_name_old_code(
    compiled, tmp_path, monkeypatch, caplog
):
    def full(source, target):
        if str(target).endswith("nbc"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    replace = os.replace
    with monkeypatch.context() as m:
        m.setattr(os, "replace", full)
        assert compiled() == "compiled"
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.endswith("(No space left on device): set NUMBA_CACHE_DIR to a folder with free space")
    assert [path.name for path in tmp_path.glob("*/*") if path.suffix != ".lock" and path.name != ".lock"] == []
    assert [compiled(), compiled()] == ["compiled", "loaded"]


def test_without_a_writable_folder_a_kernel_is_compiled_at_each_start_with_one_line(compiled, monkeypatch, caplog):
    def read_only(**kwargs):
        raise PermissionError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)  # how numba finds out
    assert [compiled(), compiled()] == ["compiled", "compiled"]
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.startswith("no folder for compiled kernels can be written; they are compiled again at each start: set ")
