"""`mode=benchmark`: time our kernels and the whole step against baselines and this machine's limits.

Writes benchmark.md (the tables), benchmark.svg (the plot) and benchmark.json (every round).
"""

import json
import logging
import platform
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict

from dreamfusion.benchmark import cases
from dreamfusion.benchmark.dream import dream_rows
from dreamfusion.benchmark.plan import Plan
from dreamfusion.benchmark.report import curve_table, plot, ratio_table, share_table
from dreamfusion.benchmark.timing import Row
from dreamfusion.files import replacing
from dreamfusion.ops.allocator import keep_large_blocks
from dreamfusion.ops.hardware import cores, processor

log = logging.getLogger(__name__)
PROMPT = "a cat"  # default prompt of the measured step


@dataclass
class Result:
    """All measurements, and the machine."""

    machine: dict[str, str]
    ratios: list[Row] = field(default_factory=list)
    steps: list[Row] = field(default_factory=list)
    curves: dict[str, list[Row]] = field(default_factory=dict)


def run(cfg: DictConfig, folder: str) -> Path:
    """Run the measurements of `benchmark=quick` or `benchmark=full`; return the path of benchmark.md.

    Raises:
        UserError: an invalid size or number of rounds.
    """
    plan: Plan = instantiate(cfg.benchmark)
    keep_large_blocks()
    with open_dict(cfg):
        cfg.prompt = cfg.prompt or PROMPT
    result = Result(machine())
    try:
        _measure(cfg, plan, result, Path(folder))
    finally:
        if result.ratios:  # also of what was measured before Ctrl-C
            _write_plot(result, Path(folder))
    path = write(result, Path(folder))
    log.info("%s\n\n%s", tables(result), path)
    return path


def _measure(cfg: DictConfig, plan: Plan, result: Result, folder: Path) -> None:
    """Fill `result`, and write what is there after each part."""
    began = time.monotonic()
    for log2_table in plan.log2_tables:
        for measure in (cases.encode_rows, cases.field_rows, cases.step_rows):
            result.ratios += measure(plan, log2_table)
            _save_progress(result, folder, f"{measure.__name__}, table 2^{log2_table}", began)
    result.ratios += cases.ray_rows(plan)
    _save_progress(result, folder, "ray_rows", began)
    result.steps = dream_rows(cfg, plan.dream_steps)
    _save_progress(result, folder, "dream_rows", began)
    for name, rows in cases.scaling_rows(plan):
        result.curves[name] = rows
        _save_progress(result, folder, f"scaling_rows, {name}", began)
    result.ratios += result.curves["threads"]


def _save_progress(result: Result, folder: Path, what: str, began: float) -> None:
    """Write the results so far, so that Ctrl-C does not lose them."""
    result.machine["seconds"] = f"{time.monotonic() - began:.0f}"
    write(result, folder)
    log.info("%4s s: %s", result.machine["seconds"], what)


def machine() -> dict[str, str]:
    """Hardware and versions that the timings depend on."""
    return {
        "processor": processor(),
        "cores": str(cores()),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def tables(result: Result) -> str:
    """Format all results as Markdown."""
    parts = ["# Benchmark", ", ".join(f"{key} {value}" for key, value in result.machine.items())]
    parts += [ratio_table(result.ratios)]
    parts += [share_table(result.steps)] if result.steps else []
    parts += [curve_table(result.curves)] if result.curves else []
    return "\n\n".join(parts)


def write(result: Result, folder: Path) -> Path:
    """Write the tables and every round; return the path of the tables."""
    path = folder / "benchmark.md"
    _replace(path, tables(result) + "\n")
    _replace(folder / "benchmark.json", json.dumps(asdict(result), indent=1, allow_nan=False) + "\n")
    return path


def _write_plot(result: Result, folder: Path) -> None:
    _replace(folder / "benchmark.svg", plot(result.ratios, result.curves, result.steps))


def _replace(path: Path, text: str) -> None:
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")
