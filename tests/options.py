"""Build objects from the YAML options in conf/, the only place of defaults."""

from contextlib import contextmanager
from pathlib import Path

import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from dreamfusion.diffusion.parameterization import noise_from_clean
from dreamfusion.export.settings import ExportSettings
from dreamfusion.ops import backend
from dreamfusion.types import Branch

CONF = Path(__file__).parents[1] / "conf"


def option(choice, *arguments, **changes):
    """Instantiate `conf/<choice>.yaml` with changes, as in `option("guidance/pocket", variant=1)`."""
    try:
        whole = OmegaConf.create({"seed": 0, "option": _settings(CONF / f"{choice}.yaml")})
        return instantiate(whole.option, *arguments, **changes)
    except InstantiationException as error:
        raise error.__cause__ from None


def available(op, device):
    """The backends of an operation that can run on `device`, fastest first."""
    with interpreted_triton():
        return tuple(
            k for k in backend.backends(op, device) if k == "torch" or backend.missing(k, device.type, op) is None
        )


@contextmanager
def interpreted_triton():
    """Triton's kernels are available on a CPU, in the interpreter."""
    with pytest.MonkeyPatch.context() as m:
        m.setenv("TRITON_INTERPRET", "1")
        getattr(backend.missing, "cache_clear", int)()  # tests replace it
        yield
    getattr(backend.missing, "cache_clear", int)()


def export_settings(**changes):
    """The settings of `conf/export/glb.yaml` with changes."""
    return ExportSettings.of(OmegaConf.merge(OmegaConf.load(CONF / "export" / "glb.yaml"), changes))


def _settings(path):
    """The option in a file, merged over the options of its group that its `defaults` name."""
    own = OmegaConf.load(path)
    others = [name for name in own.pop("defaults", []) if name != "_self_"]
    return OmegaConf.merge(*[_settings(path.with_name(f"{name}.yaml")) for name in others], own)


def make_sds(prior, **changes):
    """Score distillation with the paper's range of timesteps (Poole et al. 2022, Sec. 3)."""
    return make_method("sds", prior, **changes)


def make_method(name, prior, **changes):
    """A distillation method with the paper's range of timesteps."""
    return option(f"distillation/{name}", prior=prior, **({"min_timestep": 0.02, "max_timestep": 0.98} | changes))


def predict(prior, noisy, timestep, text, cameras=None, appearance=None):
    """The noise that is predicted for one branch."""
    return noises(prior, noisy, timestep, [Branch(text, cameras, appearance)])[0]


def noises(prior, noisy, timestep, branches):
    """The noise that is predicted for each branch."""
    abar = prior.alphas_cumprod[timestep]
    return [noise_from_clean(clean, noisy, abar) for clean in prior.denoise(noisy, timestep, branches)]
