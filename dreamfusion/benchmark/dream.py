"""Profile of a run: the time of each part of the configured training step."""

import time

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from dreamfusion.benchmark.timing import Row, torch_threads
from dreamfusion.loss import total
from dreamfusion.scene.nerf.scene import NeRF
from dreamfusion.scene.shading import ALBEDO, Shading
from dreamfusion.system import DreamFusion, with_appearance
from dreamfusion.training.assemble import assemble
from dreamfusion.types import Cameras

PARTS = ("occupancy grid", "render", "prior", "backward", "optimizer")


def dream_rows(cfg: DictConfig, steps: int) -> list[Row]:
    """Measure the parts of the configured step, plain and lit, from a fresh scene, in CPU seconds of one thread.

    The occupancy grid is updated every few steps: its time is divided among them.
    """
    with torch_threads(1):
        torch.manual_seed(cfg.seed)
        system, orbit = assemble(cfg), instantiate(cfg.camera)
        system.distillation.prior.to("cpu")
        optimizer = torch.optim.Adam(system.scene.parameters(), lr=1e-3, fused=True)
        ambient = system.lighting.ambient
        rows = []
        for name, shading in (("plain", ALBEDO), ("lit", Shading(ambient, 1 - ambient))):
            seconds: dict[str, list[float]] = {part: [] for part in PARTS}
            for step in range(steps + 1):
                generator = torch.Generator().manual_seed(step)
                cameras = orbit.sample(0.0, generator)
                parts, samples = _step(system, cameras, shading, optimizer, generator)
                for part in PARTS if step else ():  # the first step compiles and warms up
                    seconds[part].append(parts[part])
            setting: dict[str, int | str] = {"samples": samples, "views": orbit.views, "threads": 1}
            rows.append(Row(f"{name} step", setting, seconds))
    return rows


def shares(row: Row) -> dict[str, float]:
    """Median fraction of each part in its step."""
    middle = {part: row.time(part).median for part in row.seconds}
    return {part: seconds / sum(middle.values()) for part, seconds in middle.items()}


def _step(
    system: DreamFusion,
    cameras: Cameras,
    shading: Shading,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
) -> tuple[dict[str, float], int]:
    """Run the parts of `DreamFusion.training_step`, with a clock between them."""
    clock = [time.thread_time()]

    def lap() -> float:
        clock.append(time.thread_time())
        return clock[-1] - clock[-2]

    parts = {}
    assert isinstance(system.scene, NeRF)
    renderer = system.scene.renderer
    every, warmup = getattr(renderer, "update_every", 1), getattr(renderer, "warmup", 0)
    system.scene.before_step(every * (warmup // every + 1))  # a step after the warm-up
    parts["occupancy grid"] = lap() / every
    with_normal = system.regularizer.needs_normal(system.scene, 0.0)
    render = system.scene.render(cameras, shading, with_normal, generator)
    parts["render"] = lap()
    conditioning = with_appearance(system.prompting.condition(system.text_table, cameras), render, shading)
    guidance = system.distillation(render.rgb, conditioning, 0.0, generator)
    parts["prior"] = lap()
    loss = guidance.loss + total(system.regularizer(system.scene, render, 0.0), guidance.loss)
    loss.backward()
    parts["backward"] = lap()
    optimizer.step()
    optimizer.zero_grad()
    parts["optimizer"] = lap()
    return parts, len(render.samples)
