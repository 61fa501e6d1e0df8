"""Parse the command line with Hydra and run the chosen mode. Light: imports neither torch nor numpy."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import hydra
from omegaconf import DictConfig

from dreamfusion.cli.arguments import understood
from dreamfusion.cli.folders import with_folders
from dreamfusion.cli.quoting import quote_texts
from dreamfusion.cli.resolvers import register
from dreamfusion.cli.spelling import did_you_mean, nearest
from dreamfusion.cli.startup import quick_start
from dreamfusion.cli.study_callback import table_after_failure
from dreamfusion.cli.validation import check_groups
from dreamfusion.error import UserError, one_line_errors
from dreamfusion.paths import CONFIGURATION
from dreamfusion.runs.find import note_newest
from dreamfusion.signals import end_on_signals


def run_command() -> None:
    """Run the command in `sys.argv`.

    Raises:
        SystemExit: with one line, after an error that the user can put right.
    """
    register()
    with one_line_errors(), _one_line_usage(), did_you_mean(typed := understood(sys.argv[1:])):
        note_newest(typed)
        sys.argv[1:] = with_folders(quote_texts(typed))
        check_groups(sys.argv[1:])
        with table_after_failure():
            run()


@hydra.main(config_path=str(CONFIGURATION), config_name="config", version_base="1.3")
def run(cfg: DictConfig) -> object:
    """Run the composed configuration; launchers send this function to their workers."""
    quick_start()
    end_on_signals()  # here, not in `run_command`: also in the workers of launchers
    from dreamfusion.cli.dispatch import run_mode

    return run_mode(cfg)


@contextmanager
def _one_line_usage() -> Iterator[None]:
    """Let Hydra's argument parser raise its errors, without its seven lines of usage."""

    def refuse(parser: argparse.ArgumentParser, message: str) -> NoReturn:
        wrong = message.partition("unrecognized arguments: ")[2].split()
        meant = nearest(wrong[0].partition("=")[0], parser._option_string_actions) if wrong else []
        raise UserError(f"{message}; {f'did you mean {meant[0]}?' if meant else 'see python launch.py --help'}")

    original = argparse.ArgumentParser.error
    argparse.ArgumentParser.error = refuse  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        argparse.ArgumentParser.error = original  # type: ignore[method-assign]
