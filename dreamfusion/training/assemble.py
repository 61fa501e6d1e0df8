"""Build the training system from a configuration."""

from collections.abc import Iterator
from contextlib import contextmanager

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from dreamfusion.error import UserError, check_positive
from dreamfusion.guidance.prior_cache import cached_prior
from dreamfusion.system import DreamFusion

PRECISIONS = ("32-true", "32", 32, "16-mixed", "16", 16, "bf16-mixed", "bf16")  # of a step: weights stay float32


def check_trainer(trainer: DictConfig) -> None:
    """Raises: UserError: a setting that Lightning allows and a run does not: its end and its step are ours."""
    check_positive("trainer", max_steps=trainer.max_steps, log_every_n_steps=trainer.log_every_n_steps)
    if trainer.precision not in PRECISIONS:
        raise UserError(
            f"trainer.precision is {trainer.precision}; weights are float32: type trainer.precision=32-true, 16-mixed "
            "or bf16-mixed"
        )
    if trainer.max_epochs != -1:
        raise UserError(f"trainer.max_epochs is {trainer.max_epochs}; a run ends by steps: type trainer.max_steps=600")
    batches = trainer.get("accumulate_grad_batches", 1)
    if batches != 1:
        raise UserError(
            f"trainer.accumulate_grad_batches is {batches}; a step is one batch: type camera.views=NUMBER for more "
            "views a step"
        )
    clip = trainer.gradient_clip_val
    if clip is not None and clip <= 0:
        raise UserError(f"trainer.gradient_clip_val is {clip}; it must be above 0, or null for no clipping")


def assemble(cfg: DictConfig) -> DreamFusion:
    """The LightningModule of a configuration; runs of one process share the prior."""
    config = OmegaConf.to_container(cfg)
    cfg = cfg.copy()  # instantiating the scene resolves the groups that it refers to, in place
    prior = cached_prior(cfg.guidance)
    prompting = instantiate(cfg.prompting)
    system: DreamFusion = instantiate(cfg.system)(
        scene=instantiate(cfg.scene),
        prompting=prompting,
        distillation=instantiate(cfg.distillation, prior=prior),
        text_table=prompting.encode(prior, str(cfg.prompt)),
        optimization=instantiate(cfg.optimizer),
        config=config,
    )
    return system


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
