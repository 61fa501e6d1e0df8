"""Ranks of processes: a scheduler's environment counts only in a run that asks for several processes."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

ONE_DEVICE = ("auto", "single_device")  # strategies; `auto` is one device for one device


def cluster(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """The `plugins` of Lightning's trainer with these settings; makes this process the first of an undistributed run.

    Lightning takes the rank of every process from RANK, SLURM_PROCID and the like, which a shell within `srun` or
    `torchrun` has too. A run of one process there would be a second rank that writes neither metrics nor results.
    """
    if is_distributed(trainer) or "plugins" in trainer:
        return {}
    rank_zero_only.rank = 0  # type: ignore[attr-defined]
    return {"plugins": LightningEnvironment()}


def is_distributed(trainer: Mapping[str, Any]) -> bool:
    """Whether the trainer's settings ask for several processes, or for as many as there are devices."""
    devices = trainer.get("devices", "auto")
    one = str(devices) == "1" or (not isinstance(devices, str | int) and len(devices) == 1)
    return not one or trainer.get("num_nodes", 1) != 1 or trainer.get("strategy", "auto") not in ONE_DEVICE


def own_gpu(trainer: Mapping[str, Any]) -> int:
    """Index of the GPU that Lightning gives to this process, before it does so."""
    local = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))
    rank = int(local) if is_distributed(trainer) else 0
    devices = trainer.get("devices", "auto")
    return rank if isinstance(devices, str | int) else int(devices[rank])


def summed(values: Tensor) -> Tensor:
    """The sum of a tensor over the processes of a distributed run, each of which calls this; in place."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(values)
    return values
