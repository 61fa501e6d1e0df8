"""Hydra's hooks around the runs of a multirun: a failure is said at once, and a table comes at the end.

Hydra sends this object to every worker process of a launcher, so importing the module makes our resolvers known there.
"""

from __future__ import annotations

import logging
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from dreamfusion.cli.resolvers import register
from dreamfusion.error import UserError
from dreamfusion.runs.names import study_of

log = logging.getLogger(__name__)
register()


class StudyCallback(Callback):
    """Named in conf/config.yaml; does nothing in a single run."""

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if config.hydra.mode == RunMode.MULTIRUN and job_return.status == JobStatus.FAILED:
            error = job_return._return_value  # the property raises it, which ends the other runs
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            log.error("failed: %s: %s%s", " ".join(job_return.overrides or []), kind, error)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        if config.hydra.runtime.choices["mode"] == "train":
            from dreamfusion.runs.report import report

            report(str(study_of(config, RunMode.MULTIRUN)), logger=config.logger)
