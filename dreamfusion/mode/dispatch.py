"""Run the chosen mode, and turn what a user can cause into one sentence instead of a traceback."""

from __future__ import annotations

import logging

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

log = logging.getLogger(__name__)


class UserError(ValueError):
    """Something that the user can put right; its text says how."""


def run_mode(cfg: DictConfig) -> object:
    """Call `conf/mode/<mode>.yaml`'s function with the composed configuration.

    Raises:
        SystemExit: with the message of an error that the user can put right.
    """
    from dreamfusion.checkpoint import CheckpointError
    from dreamfusion.export.occupancy import EmptyFieldError
    from dreamfusion.guidance.prior import GuidanceError

    try:
        return instantiate(cfg.mode)(cfg)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, ValueError | TypeError | FileNotFoundError | GuidanceError):
            raise SystemExit(f"error: {cause}") from error
        raise
    except (UserError, CheckpointError, EmptyFieldError, GuidanceError, FileNotFoundError, PermissionError) as error:
        raise SystemExit(f"error: {error}") from error
