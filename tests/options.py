"""Build objects from the YAML options in conf/, the only place of defaults."""

from pathlib import Path

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from dreamfusion.export.settings import ExportSettings
from dreamfusion.ops import backend
from dreamfusion.types import Branch, RenderOutput

CONF = Path(__file__).parents[1] / "conf"


def option(choice, *arguments, **changes):
    """Instantiate `conf/<choice>.yaml` with changes, as in `option("guidance/pocket", variant=1)`."""
    settings = OmegaConf.load(CONF / f"{choice}.yaml")
    try:
        return instantiate(settings, *arguments, **changes)
    except InstantiationException as error:
        raise error.__cause__ from None


def available(op, device):
    """The backends of an operation that can run on `device`, fastest first."""
    kernel = backend._KERNELS[op].get(device.type)
    return ("torch",) if kernel is None or backend.missing(kernel) else (kernel, "torch")


def export_settings(**changes):
    """The settings of `conf/export/glb.yaml` with changes."""
    return ExportSettings.of(OmegaConf.merge(OmegaConf.load(CONF / "export" / "glb.yaml"), changes))


def make_sds(prior, **changes):
    """Score distillation with the paper's range of timesteps (Poole et al. 2022, Sec. 3)."""
    return option("distillation/sds", prior=prior, **({"min_timestep": 0.02, "max_timestep": 0.98} | changes))


def predict(prior, noisy, timestep, text, cameras=None, appearance=None):
    """The prediction of one branch."""
    (noise,) = prior.predict(noisy, timestep, [Branch(text, cameras, appearance)])
    return noise


def as_render(rgb):
    """An opaque render of images (B, 3, H, W)."""
    full = torch.ones_like(rgb[:, :1]).detach()
    return RenderOutput(rgb, torch.zeros(len(rgb), 3), full, full, None)
