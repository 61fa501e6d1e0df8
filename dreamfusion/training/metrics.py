"""Log gradient norms by noise level, speed, memory and scores to every logger, and media to Weights & Biases."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import psutil
import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor

from dreamfusion.system import DreamFusion
from dreamfusion.training.loggers import log_picture, wandb_loggers, wandb_mode

BUCKETS = 5  # of noise levels, equally wide in t / T
GIB = 2**30


class Means:
    """Means of scalars over the steps since the last row; adding waits for no device."""

    def __init__(self, sums: Mapping[str, Tensor] | None = None, counts: Mapping[str, int] | None = None) -> None:
        self.sums, self.counts = dict(sums or {}), dict(counts or {})

    def state(self) -> dict[str, Any]:
        """The arguments of another one."""
        return {"sums": {name: total.cpu() for name, total in self.sums.items()}, "counts": dict(self.counts)}

    def to(self, device: torch.device) -> None:
        """Move the sums."""
        self.sums = {name: total.to(device) for name, total in self.sums.items()}

    def add(self, figures: Mapping[str, Tensor]) -> None:
        """Add the scalars of one step, by name; a step need not have all."""
        begun = [name for name in figures if name in self.sums]
        added = (
            torch._foreach_add([self.sums[name] for name in begun], [figures[name] for name in begun]) if begun else []
        )
        self.sums |= {**figures, **dict(zip(begun, added, strict=True))}
        self.counts |= {name: self.counts.get(name, 0) + 1 for name in figures}

    def take(self) -> dict[str, float]:
        """The means by name; the next ones begin."""
        means = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means


class Metrics(L.Callback):
    """Logs the system's figures, gradient norm by noise level, speed and memory every `log_every_n_steps` steps.

    Figures are means over these steps: those of one step are mostly the noise of its timestep and cameras.

    Must run before `Checkpoints`, so that no checkpoint contains a step whose row is missing. (Lightning itself logs a
    step after all callbacks.)
    """

    def __init__(self) -> None:
        self._norms, self._counts, self._means = torch.zeros(BUCKETS), torch.zeros(BUCKETS), Means()
        self._since, self._steps, self._peak = 0.0, 0, 0.0
        self._own: set[str] = set()  # names of the system's figures, of which Lightning keeps the last value for ever

    def state_dict(self) -> dict[str, Any]:
        return {"norms": self._norms.cpu(), "counts": self._counts.cpu(), "means": self._means.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._norms, self._counts = state_dict["norms"], state_dict["counts"]
        self._means = Means(**state_dict.get("means", {}))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._norms, self._counts = self._norms.to(pl_module.device), self._counts.to(pl_module.device)
        self._means.to(pl_module.device)
        self._since, self._steps = time.monotonic(), 0

    def on_train_batch_end(self, trainer: L.Trainer, system: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._collect(system)
        self._steps, self._peak = self._steps + 1, max(self._peak, memory_in_use(system.device))
        if trainer.global_step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        now, means = time.monotonic(), self._means.take()
        others = {name: float(value) for name, value in trainer.callback_metrics.items() if name not in self._own}
        row = others | means | norms_by_timestep(self._norms, self._counts)
        row["speed/steps_per_second"] = self._steps / max(now - self._since, 1e-9)
        row["memory/peak_gib"] = self._peak
        for logger in trainer.loggers:
            logger.log_metrics(row, trainer.global_step - 1)  # counted from 0, as Lightning logs steps
        # Not in place: a checkpoint may share the old tensors.
        self._norms, self._counts = torch.zeros_like(self._norms), torch.zeros_like(self._counts)
        self._since, self._steps = now, 0

    def _collect(self, system: DreamFusion) -> None:
        """Accumulate on the device, without a synchronisation."""
        guidance = system.last_guidance
        assert guidance is not None
        self._means.add(system.last_figures)
        self._own.update(system.last_figures)
        total = len(system.distillation.prior.alphas_cumprod)
        bucket = (guidance.timestep * BUCKETS // total).clamp(max=BUCKETS - 1)
        self._norms.index_add_(0, bucket, guidance.gradient_norm.detach().float())
        self._counts.index_add_(0, bucket, torch.ones_like(guidance.gradient_norm))


def norms_by_timestep(norms: Tensor, counts: Tensor) -> dict[str, float]:
    """Mean gradient norm of each non-empty timestep bucket, by name, from sums and counts, (BUCKETS,) each."""
    edges = [f"{i / BUCKETS:.1f}-{(i + 1) / BUCKETS:.1f}" for i in range(BUCKETS)]
    pairs = zip(edges, norms.tolist(), counts.tolist(), strict=True)
    return {f"gradient_norm_at_t/{edge}": norm / count for edge, norm, count in pairs if count}


def memory_in_use(device: torch.device) -> float:
    """Memory in GiB: the peak of torch's tensors on the GPU if it trains, else what this process holds now.

    Not of tiny-cuda-nn's own allocator, nor CUDA's context: what the driver reports also counts other processes.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    return psutil.Process().memory_info().rss / GIB


def log_results(
    loggers: Sequence[Logger], folder: Path, step: int, figures: Mapping[str, float], pruned: str | None
) -> None:
    """Log the final figures to every logger; and pictures, turntable and mesh of the run to those that show them."""
    for logger in loggers:
        logger.log_metrics(dict(figures), step)
    if (folder / "mesh_check.png").is_file() and pruned is None:
        log_picture(loggers, "mesh_check", folder / "mesh_check.png", step)
    for logger in wandb_loggers(loggers):
        import wandb  # imported here and below: takes half a second that most runs do not need

        from dreamfusion.export.writer import glb_metadata

        media: dict[str, object] = {}
        if (folder / "turntable.mp4").is_file():
            media["turntable"] = wandb.Video(str(folder / "turntable.mp4"), format="mp4")
        if glb_metadata(folder / "mesh.glb").get("steps") == str(step):  # not of an earlier session
            media["mesh"] = wandb.Object3D(str(folder / "mesh.glb"))
        if media and pruned is None:
            logger.experiment.log(media)
        logger.experiment.summary.update(dict(figures) | {"pruned": pruned or ""})


def log_study_table(
    study: str, folder: Path, head: Sequence[str], rows: Sequence[Sequence[float | str | None]], project: str, done: int
) -> None:
    """Log the study's table, with `done` finished runs, as a separate W&B run in the study's group."""
    import wandb

    mode = wandb_mode()
    with wandb.init(
        project=project,
        group=study,
        name=f"{study}: all runs",
        id=f"table-{hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:16]}",  # one, however often it is made
        resume="allow" if mode == "online" else None,
        job_type="report",
        dir=folder.absolute(),
        mode=mode,
        settings=wandb.Settings(quiet=True),
    ) as run:
        run.log({"runs": wandb.Table(columns=list(head), data=[list(row) for row in rows])})
        run.summary["finished"] = done
