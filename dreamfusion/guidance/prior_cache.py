"""Cache of the last prior, so that the next run of the process does not load the weights again.

Only one prior is kept, because two of Stable Diffusion's size may not fit in memory.
"""

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dreamfusion.guidance.prior import Prior

_KEPT: dict[str, Prior] = {}  # at most one


def cached_prior(guidance: DictConfig) -> Prior:
    """Prior for these settings: the previous run's prior if its settings were equal, else a new one.

    Priors are frozen, so sharing one does not couple runs. Construction leaves torch's generator unchanged, so that the
    initial weights of a scene do not depend on whether the prior was cached.
    """
    key = OmegaConf.to_yaml(guidance, resolve=True)
    if key not in _KEPT:
        _KEPT.clear()  # frees the memory before the new prior is loaded
        with torch.random.fork_rng(devices=[]):
            _KEPT[key] = instantiate(guidance)
    return _KEPT[key]
