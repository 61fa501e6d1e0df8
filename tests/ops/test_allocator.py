"""Large blocks stay with the process during a run, and go back to the system before the next."""

import platform

import psutil
import pytest
import torch

from dreamfusion.ops.allocator import keep_large_blocks

BLOCKS, SIZE = 40, 2_000_000  # float32: 320 MB


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is another one")
def test_the_memory_of_a_run_is_given_back_before_the_next():
    def resident():
        return psutil.Process().memory_info().rss

    assert keep_large_blocks()
    before = resident()
    run = {"blocks": [torch.ones(SIZE) for _ in range(BLOCKS)]}
    run["cycle"] = run  # as a trainer and its module
    size = resident() - before
    assert size > 3 * BLOCKS * SIZE
    del run
    assert keep_large_blocks()
    assert resident() - before < size / 10
