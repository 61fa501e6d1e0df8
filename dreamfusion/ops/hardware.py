"""Names of the system, the processor, the GPU and its driver, and the cores that this process may use."""

import os
import platform
import re
from pathlib import Path

import torch


def system() -> str:
    """Operating system, its release and the architecture: "Linux 6.1.0, x86_64"."""
    return f"{platform.system()} {platform.release()}, {platform.machine()}"


def cores() -> int:
    """Number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """Model name of the processor, as far as the system reports it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        with info.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def gpu() -> str | None:
    """Name of the first GPU of torch; None without one."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    return "mps" if torch.backends.mps.is_available() else None


def driver() -> str | None:
    """Version of NVIDIA's kernel module, as far as the system shows it."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"\d+\.\d+(\.\d+)?", text)
    return found and found.group()
