"""Hydra callbacks for multiruns: log failures at once, and write the study's table at the end.

Hydra sends this object to every worker process of a launcher; importing the module registers our resolvers there.
"""

import logging
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from dreamfusion.cli.resolvers import register
from dreamfusion.error import UserError
from dreamfusion.runs.names import relative_to_cwd, study_of

log = logging.getLogger(__name__)
register()


class StudyCallback(Callback):
    """Configured in conf/config.yaml; does nothing in a single run."""

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if config.hydra.mode == RunMode.MULTIRUN and job_return.status == JobStatus.FAILED:
            try:
                job_return.return_value  # raises the error of the job; it must not end the other runs  # noqa: B018
            except BaseException as error:
                prefix = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
                log.error("failed: %s: %s%s", " ".join(job_return.overrides or []), prefix, error)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        if config.hydra.runtime.choices["mode"] == "train":
            from dreamfusion.runs.report import report_folder

            folder = relative_to_cwd(Path(config.hydra.sweep.dir).absolute())
            report_folder(str(study_of(config.study, RunMode.MULTIRUN)), folder, config.logger)
