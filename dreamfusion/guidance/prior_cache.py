"""The prior of this process: loading one takes longer than the first steps of a run, so the next run reuses it.

At most one is kept: there is no memory for two priors of Stable Diffusion's size.
"""

from __future__ import annotations

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dreamfusion.guidance.prior import Prior

_KEPT: dict[str, Prior] = {}  # at most one


def cached_prior(guidance: DictConfig) -> Prior:
    """The prior of these settings: the previous run's if its settings were the same, else a new one.

    Priors are frozen, so runs cannot influence each other through one. Constructing a prior leaves torch's generator
    unchanged, so that a scene's initial weights do not depend on whether the prior was cached.
    """
    key = OmegaConf.to_yaml(guidance, resolve=True)
    if key not in _KEPT:
        _KEPT.clear()  # before the new one is loaded
        with torch.random.fork_rng(devices=[]):
            _KEPT[key] = instantiate(guidance)
    return _KEPT[key]
