"""Hydra callbacks for multiruns: log failures at once, and write the study's table at the end, however it ends.

Hydra sends this object to every worker process of a launcher; importing the module registers our resolvers there.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
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
NO_TRIAL = "No trials are completed yet."  # Optuna's error where all runs failed
_begun: list[DictConfig] = []  # settings of this process's multirun, until its table is written
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

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        _begun.append(config)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        _begun.clear()
        if config.hydra.runtime.choices["mode"] == "train":
            from dreamfusion.runs.report import report_folder

            report_folder(_study(config), _folder(config), config.logger)


@contextmanager
def table_after_failure() -> Iterator[None]:
    """Write the table of a multirun that an error ends: Hydra calls `on_multirun_end` only if no run failed.

    Hydra's sweepers raise the first error when all runs have ended, whatever the launcher. Without any run there is no
    table, and a signal does not wait for one.

    Raises:
        UserError: all runs of an Optuna search failed; else the error of the block.
    """
    _begun.clear()
    try:
        yield
    except Exception as error:
        for config in [*_begun]:
            if any(_folder(config).glob("*/*/config.yaml")):
                try:
                    StudyCallback().on_multirun_end(config)
                except Exception as fault:  # must not hide the error of the run
                    log.error("no table: %s", fault)
        if isinstance(error, ValueError) and str(error) == NO_TRIAL:
            raise UserError("all runs of the search failed, for the reasons above; there is no best one") from error
        raise
    finally:
        _begun.clear()


def _study(config: DictConfig) -> str:
    return str(study_of(config.study, RunMode.MULTIRUN))


def _folder(config: DictConfig) -> Path:
    return relative_to_cwd(Path(config.hydra.sweep.dir).absolute())
