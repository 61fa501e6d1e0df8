"""Build the training system from a configuration."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from dreamfusion.camera.orbit import Orbit
from dreamfusion.distillation.base import Distillation
from dreamfusion.error import UserError
from dreamfusion.guidance.adapter import AdaptablePrior
from dreamfusion.guidance.prior import PictureConditioned, check_members
from dreamfusion.guidance.prior_cache import cached_prior
from dreamfusion.prompting.table import Prompting
from dreamfusion.scene.base import Scene
from dreamfusion.system import DreamFusion


def assemble(cfg: DictConfig, resumed: bool = False) -> DreamFusion:
    """The LightningModule of a configuration; runs of one process share the prior.

    A `resumed` run has the picture of its reference view in its checkpoint, and does not read the file again.
    """
    config = OmegaConf.to_container(cfg)
    cfg = cfg.copy()  # instantiating the scene resolves the groups that it refers to, in place
    prior = cached_prior(cfg.guidance)
    check_members(prior)
    if isinstance(prior, AdaptablePrior):
        prior.remove_adapter()  # of an earlier run of this process
    prompting = built(cfg, "prompting", Prompting)
    reference = None
    if cfg.get("image") is not None:
        orbit = built(cfg, "camera", Orbit)
        shown = prior.resolution if isinstance(prior, PictureConditioned) else None
        reference = instantiate(cfg.reference)(image=str(cfg.image), orbit=orbit, read=not resumed, shown=shown)
    system: DreamFusion = instantiate(cfg.system)(
        scene=built(cfg, "scene", Scene),
        prompting=prompting,
        distillation=built(cfg, "distillation", Distillation, prior=prior),
        text_table=prompting.encode(prior, str(cfg.prompt)),
        optimization=instantiate(cfg.optimizer),
        reference=reference,
        config=config,
    )
    return system


def built(cfg: DictConfig, group: str, kind: type, **others: Any) -> Any:
    """The object that the settings of a group, and `others`, describe.

    Raises:
        UserError: it is no `kind`; found before the first step, as the run's checkpoint could not be read.
    """
    return _checked(instantiate(cfg[group], **others), group, kind)


def callbacks_of(cfg: DictConfig) -> list[L.Callback]:
    """The callbacks of the group `callbacks`.

    Raises:
        UserError: one is no Lightning callback.
    """
    made = instantiate(cfg.callbacks) if cfg.callbacks else {}
    return [_checked(one, f"callbacks.{name}", L.Callback) for name, one in made.items()]


def loggers_of(cfg: DictConfig, folder: Path) -> list[Logger]:
    """The loggers of the run in `folder`.

    Raises:
        UserError: the group `logger` makes something else than a list of Lightning's loggers.
    """
    made = _checked(instantiate(cfg.logger)(folder=folder, name=str(cfg.prompt)), "logger", list)
    return [_checked(one, "logger", Logger) for one in made]


def _checked(made: Any, group: str, kind: type) -> Any:
    if not isinstance(made, kind):
        place = "" if kind.__module__ == "builtins" else f"; derive its class from {kind.__module__}.{kind.__name__}"
        raise UserError(
            f"{group} makes a {type(made).__name__}, which is no {kind.__name__}{place} (docs/extending.md)"
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
