"""`mode=doctor`: what is here, the kernels of each operation and why, their parity, and the speed of a short run.

Nothing in it is private: no user, no folder, no key.
"""

import getpass
import importlib.util
import logging
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import psutil
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict

from dreamfusion.camera.data import CameraData
from dreamfusion.files import write_json
from dreamfusion.guidance.hub import hub_answers
from dreamfusion.ops import parity
from dreamfusion.ops.backend import ATOMIC, backends, choose, missing
from dreamfusion.ops.hardware import cores, driver, processor, system
from dreamfusion.ops.memory import accelerator, free_memory
from dreamfusion.ops.precision import processor_bfloat16
from dreamfusion.ops.probe import c_compiler, failure
from dreamfusion.runs.record import versions
from dreamfusion.training.assemble import assemble
from dreamfusion.training.loggers import logged_in

log = logging.getLogger(__name__)
PACKAGES = (
    *("torch", "lightning", "diffusers", "transformers", "wandb"),
    *("numba", "triton", "nerfacc", "tinycudann", "nvdiffrast"),
)
GB = 1e9
WARM = 2  # steps before the clock starts
Report = dict[str, dict[str, Any]]


def run(cfg: DictConfig, json: str | None, steps: int, build_seconds: float) -> Report:
    """Log the report, section by section as they are ready, and write it to the file `json` if there is one."""
    report: Report = {}
    choices = logging.getLogger(choose.__module__)
    before = choices.level
    choices.setLevel(logging.WARNING)  # every backend is chosen here, one after the other
    try:
        for name, section in _sections(cfg, steps, build_seconds):
            report[name] = {key: _public(value) for key, value in section.items()}
            log.info("%s\n%s", name, "\n".join(f"  {key}: {_text(value)}" for key, value in report[name].items()))
    finally:
        choices.setLevel(before)
    if json is not None:
        write_json(Path(json), report)
    return report


def _sections(cfg: DictConfig, steps: int, build_seconds: float) -> Iterator[tuple[str, dict[str, Any]]]:
    devices = [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]
    devices += [torch.device("mps")] if torch.backends.mps.is_available() else []
    yield "machine", machine(devices)
    yield "packages", versions(PACKAGES)
    yield "services", {"hub reachable": hub_answers(), "W&B login accepted": _if_installed(logged_in)}
    for device in devices:
        yield f"operations on {device.type}", operations(device, build_seconds)
    if steps > 0:
        yield "run", {"steps per second": speed(cfg, steps), "steps": steps, "guidance": cfg.guidance._target_}


def machine(devices: list[torch.device]) -> dict[str, Any]:
    """Hardware, system and drivers."""
    found: dict[str, Any] = {
        "system": system(),
        "python": platform.python_version(),
        "processor": f"{processor()}, {cores()} cores, bfloat16 products: {processor_bfloat16()}",
        "processor features": torch.backends.cpu.get_cpu_capability(),
        "free memory, GB": round(free_memory() / GB, 1),
        "memory, GB": round(psutil.virtual_memory().total / GB, 1),
        "free disk, GB": round(shutil.disk_usage(Path.cwd()).free / GB, 1),
        "CUDA of torch": torch.version.cuda,
        "ROCm of torch": torch.version.hip,
        "nvcc": shutil.which("nvcc") is not None,
        "C compiler and Python.h, for Triton": c_compiler(),
    }
    if torch.device("cuda") in devices:
        properties = torch.cuda.get_device_properties(0)
        found["GPU"] = f"{properties.name}, compute capability {properties.major}.{properties.minor}"
        found["memory of the GPU, GB"] = round(properties.total_memory / GB, 1)
        found["free memory of the GPU, GB"] = round(free_memory("cuda") / GB, 1)
        found["driver"] = driver()
    return found


def operations(device: torch.device, build_seconds: float) -> dict[str, Any]:
    """For each operation: the chosen backend, and for each backend its deviation from the reference, or why it is not
    used.
    """
    found: dict[str, Any] = {}
    for kernel in {name for op in parity.OPERATIONS for name in backends(op, device)} - {"torch"}:
        if device.type != "cpu" and importlib.util.find_spec(kernel) is not None:
            failure(kernel, device.type, limit=build_seconds, again=True)  # builds it; keeps its verdicts for `missing`
    missing.cache_clear()
    for op in parity.OPERATIONS:
        checks = {}
        for name in backends(op, device):
            reason = "" if name == "torch" else (missing(name, device.type, op) or "").removeprefix(f"{name} ")
            try:
                varies = ", varies in the last bits" if (op, name) in ATOMIC else ""
                checks[name] = reason or f"deviates by {parity.deviation(op, name, device):.1e}{varies}"
            except Exception as error:  # a kernel may raise anything, and the others are still of interest
                checks[name] = f"fails: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        try:
            found[op] = {"chosen": choose(op, device), **checks}
        except ValueError as error:
            found[op] = {"chosen": f"none: {error}", **checks}
    return found


def speed(cfg: DictConfig, steps: int) -> float | str:
    """Steps per second of the configured run, after WARM steps; or why there is none."""
    cfg = cfg.copy()
    with open_dict(cfg):
        cfg.prompt = cfg.prompt or "a cat"
        cfg.trainer.max_steps = steps + WARM
    clock = _Clock()
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "callbacks": [clock]}
    options["accelerator"] = accelerator(cfg.trainer.accelerator)
    try:
        trainer: L.Trainer = instantiate(cfg.trainer)(**options)
        trainer.fit(assemble(cfg), CameraData(instantiate(cfg.camera), cfg.trainer.max_steps, cfg.seed))
    except Exception as error:  # the rest of the report is wanted all the more
        return f"fails: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return round(steps / clock.seconds, 2)


class _Clock(L.Callback):
    """Seconds of all steps but the first WARM."""

    def __init__(self) -> None:
        self._began, self.seconds = 0.0, 0.0

    def on_train_batch_end(self, trainer: L.Trainer, system: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step in (WARM, trainer.max_steps):
            outputs["loss"].item()  # waits for the device
            now = time.monotonic()
            self._began, self.seconds = (now, 0.0) if trainer.global_step == WARM else (self._began, now - self._began)


def _if_installed(check: Callable[[], bool]) -> bool | str:
    """The result of `check`, or which package it misses."""
    try:
        return check()
    except ModuleNotFoundError as error:
        return f"{error.name} is not installed"


def _public(value: Any) -> Any:
    """The value without folders and user names."""
    if isinstance(value, dict):
        return {key: _public(child) for key, child in value.items()}
    if not isinstance(value, str):
        return value
    text = re.sub(r"(?:[A-Za-z]:)?(?:[/\\][^\s/\\:'\"]+)+[/\\]([^\s/\\:'\"]+)", r"\1", value)  # paths to their names
    names = {Path.home().name, os.environ.get("USER", ""), _user()} - {""}
    return re.sub("|".join(rf"\b{re.escape(name)}\b" for name in names), "USER", text) if names else text


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # no such user, as in some containers
        return ""


def _text(value: Any) -> str:
    return ", ".join(f"{key} {child}" for key, child in value.items()) if isinstance(value, dict) else str(value)
