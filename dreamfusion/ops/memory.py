"""The device that a command uses, and its free memory, as far as the system reports it."""

import logging
from pathlib import Path

import psutil
import torch

log = logging.getLogger(__name__)
LIMITS = (  # (limit, use) of a container, version 2 and 1 of cgroups
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def chosen_device(accelerator: str) -> torch.device:
    """The device for `trainer.accelerator`: for "auto" a GPU with CUDA or ROCm, if there is one.

    An Apple GPU only by its name or "gpu": no kernel here runs on it, and no run was ever made there.
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if accelerator in ("gpu", "mps") and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def accelerator(wanted: str) -> str:
    """`trainer.accelerator` for Lightning, which would take an Apple GPU for "auto"; see `chosen_device`."""
    if wanted != "auto":
        return wanted
    if torch.backends.mps.is_available():
        log.info("training on the CPU; trainer.accelerator=mps takes Apple's GPU, on which no run was made yet")
    return chosen_device(wanted).type


def free_memory(device: torch.device | str = "cpu") -> int:
    """Bytes that this process may still allocate."""
    if torch.device(device).type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, of earlier tensors
        return torch.cuda.mem_get_info(device)[0] + kept
    free = [int(psutil.virtual_memory().available), *(_of_container(*paths) for paths in LIMITS)]
    return min(amount for amount in free if amount is not None)


def _of_container(limit: str, use: str) -> int | None:
    try:
        used = int(Path(use).read_text("ascii")) - _cached(Path(use).with_name("memory.stat"))
        return max(int(Path(limit).read_text("ascii")) - max(used, 0), 0)
    except (OSError, ValueError):  # no such file, or "max"
        return None


def _cached(statistics: Path) -> int:
    """Bytes of files in memory that count as used, though the kernel gives them up when memory is needed."""
    try:
        rows = dict(line.split() for line in statistics.read_text("ascii").splitlines())
        return int(rows.get("total_inactive_file", rows.get("inactive_file", 0)))  # of version 1, with those below it
    except (OSError, ValueError):
        return 0
