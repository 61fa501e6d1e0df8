"""Build the training system from a configuration."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from dreamfusion.camera.orbit import Orbit
from dreamfusion.error import UserError
from dreamfusion.guidance.adapter import AdaptablePrior
from dreamfusion.guidance.prior_cache import cached_prior
from dreamfusion.scene.base import Scene
from dreamfusion.system import DreamFusion


def assemble(cfg: DictConfig, resumed: bool = False) -> DreamFusion:
    """The LightningModule of a configuration; runs of one process share the prior.

    A `resumed` run has the picture of its reference view in its checkpoint, and does not read the file again.
    """
    config = OmegaConf.to_container(cfg)
    cfg = cfg.copy()  # instantiating the scene resolves the groups that it refers to, in place
    prior = cached_prior(cfg.guidance)
    if isinstance(prior, AdaptablePrior):
        prior.remove_adapter()  # of an earlier run of this process
    prompting = instantiate(cfg.prompting)
    reference = None
    if cfg.get("image") is not None:
        orbit = built(cfg, "camera", Orbit)
        reference = instantiate(cfg.reference)(image=str(cfg.image), orbit=orbit, read=not resumed)
    system: DreamFusion = instantiate(cfg.system)(
        scene=built(cfg, "scene", Scene),
        prompting=prompting,
        distillation=instantiate(cfg.distillation, prior=prior),
        text_table=prompting.encode(prior, str(cfg.prompt)),
        optimization=instantiate(cfg.optimizer),
        reference=reference,
        config=config,
    )
    return system


def built(cfg: DictConfig, group: str, kind: type) -> Any:
    """The object that the settings of a group describe.

    Raises:
        UserError: it is no `kind`; found before the first step, as the run's checkpoint could not be read.
    """
    made = instantiate(cfg[group])
    if not isinstance(made, kind):
        raise UserError(
            f"{group} makes a {type(made).__name__}, which is no {kind.__name__}; derive its class from "
            f"{kind.__module__}.{kind.__name__} (docs/extending.md)"
        )
    return made


@contextmanager
def user_errors() -> Iterator[None]:
    """Convert errors about invalid settings into UserError.

    Raises:
        UserError: in place of ValueError, TypeError, ImportError and Lightning's MisconfigurationException.
    """
    try:
        with lightning_errors():
            yield
    except InstantiationException as error:
        if not isinstance(error.__cause__, ValueError | TypeError | ImportError):
            raise
        raise UserError(str(error.__cause__)) from error
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(str(error)) from error


@contextmanager
def lightning_errors() -> Iterator[None]:
    """Raises: UserError: in place of MisconfigurationException, with which Lightning refuses settings."""
    try:
        yield
    except MisconfigurationException as error:
        raise UserError(f"{error}; every machine supports trainer.accelerator=cpu trainer.devices=1") from error
