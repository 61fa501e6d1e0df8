"""Build the training system that a configuration describes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hydra.utils import instantiate
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from dreamfusion.error import UserError
from dreamfusion.guidance.prior_cache import cached_prior
from dreamfusion.system import DreamFusion


def assemble(cfg: DictConfig) -> DreamFusion:
    """The LightningModule of a configuration, with all its parts; the prior is shared within the process."""
    prior = cached_prior(cfg.guidance)
    prompting = instantiate(cfg.prompting)
    system: DreamFusion = instantiate(cfg.system)(
        scene=instantiate(cfg.scene),
        prompting=prompting,
        distillation=instantiate(cfg.distillation, prior=prior),
        text_table=prompting.encode(prior, str(cfg.prompt)),
        optimization=instantiate(cfg.optimizer),
        config=OmegaConf.to_container(cfg),
    )
    return system


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn errors of parts that refuse their settings into errors for the user.

    Raises:
        UserError: in place of the part's own error.
    """
    try:
        yield
    except MisconfigurationException as error:
        raise UserError(f"{error}; on any machine there are trainer.accelerator=cpu trainer.devices=1") from error
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from error
