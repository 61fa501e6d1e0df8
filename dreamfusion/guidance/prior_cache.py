"""The prior of this process: loading one takes longer than many a run's first steps, so the next run finds it there.

One alone is kept: a prior of Stable Diffusion's size has no room for a second one beside it.
"""

from __future__ import annotations

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dreamfusion.cli.startup import uncollected
from dreamfusion.guidance.prior import Prior

_KEPT: dict[str, Prior] = {}  # at most one


def resident(guidance: DictConfig) -> Prior:
    """The prior that the configuration names: the one of the run before, if that named the same, else a new one.

    Priors are frozen, so that runs cannot see each other through it; and a new one draws its first weights without
    moving torch's generator, so that the scene begins alike whether the prior was there already or not.
    """
    key = OmegaConf.to_yaml(guidance, resolve=True)
    if key not in _KEPT:
        _KEPT.clear()  # before the new one is made
        with uncollected(), torch.random.fork_rng(devices=[]):
            _KEPT[key] = instantiate(guidance)
    return _KEPT[key]
