"""`mode=benchmark`: our kernels and the whole step beside other formulations and this machine's limits.

Writes benchmark.md (the tables), benchmark.svg (the plot) and benchmark.json (every round).
"""

from __future__ import annotations

import json
import logging
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict

from dreamfusion.benchmark import cases
from dreamfusion.benchmark.dream import dream_rows
from dreamfusion.benchmark.plan import Plan
from dreamfusion.benchmark.report import curve_table, plot, ratio_table, share_table
from dreamfusion.benchmark.timing import Row
from dreamfusion.export.atomic import replacing
from dreamfusion.ops.allocator import keep_large_blocks
from dreamfusion.ops.machine import processor

log = logging.getLogger(__name__)
PROMPT = "a cat"  # of the measured step, where none is given


def run(cfg: DictConfig, folder: str) -> Path:
    """Measure what `benchmark=quick` or `benchmark=full` says; returns the path of benchmark.md.

    Raises:
        UserError: a size that nothing can be measured with.
    """
    plan: Plan = instantiate(cfg.benchmark)
    keep_large_blocks()
    began = time.monotonic()
    ratios: list[Row] = []
    for log2_table in plan.log2_tables:
        for measure in (cases.encode_rows, cases.field_rows, cases.step_rows):
            log.info("%.0f s: %s, table 2^%d", time.monotonic() - began, measure.__name__, log2_table)
            ratios += measure(plan, log2_table)
    log.info("%.0f s: ray_rows", time.monotonic() - began)
    ratios += cases.ray_rows(plan)
    log.info("%.0f s: scaling_rows", time.monotonic() - began)
    curves = dict(cases.scaling_rows(plan))
    ratios += curves["threads"]
    log.info("%.0f s: dream_rows", time.monotonic() - began)
    with open_dict(cfg):
        cfg.prompt = cfg.prompt or PROMPT
    steps = dream_rows(cfg, plan.dream_steps)
    machine = {
        "processor": processor(),
        "cores": str(torch.get_num_threads()),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "seconds": f"{time.monotonic() - began:.0f}",
    }
    return write(Path(folder), machine, ratios, curves, steps)


def write(
    folder: Path, machine: dict[str, str], ratios: Sequence[Row], curves: dict[str, list[Row]], steps: Sequence[Row]
) -> Path:
    """The three files, and the tables on the console."""
    tables = "\n\n".join(
        [
            "# Benchmark",
            ", ".join(f"{key} {value}" for key, value in machine.items()),
            ratio_table(ratios),
            curve_table(curves),
            share_table(steps),
        ]
    )
    rows = {"ratios": ratios, "steps": steps} | {f"against {name}": rows for name, rows in curves.items()}
    content = {"machine": machine} | {name: [asdict(row) for row in some] for name, some in rows.items()}
    path = folder / "benchmark.md"
    for target, text in (
        (path, tables + "\n"),
        (folder / "benchmark.svg", plot(ratios, curves, steps)),
        (folder / "benchmark.json", json.dumps(content, indent=1) + "\n"),
    ):
        with replacing(target) as draft:
            draft.write_text(text, encoding="utf-8")
    log.info("%s\n\n%s", tables, path)
    return path
