"""What a user can put right is one line that starts with `error:`, never a traceback."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from hydra.errors import CompactHydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

INTERRUPTED = 130  # exit status after Ctrl-C, as shells have it: 128 + SIGINT


class UserError(ValueError):
    """Something that the user can put right; its text says how."""


def check_positive(group: str, **counts: int) -> None:
    """Raises: UserError: a setting of the group that counts something is not a whole number of at least 1."""
    for name, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise UserError(f"{group}.{name} is {value}; it must be at least 1, a whole number")


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Around Hydra: its errors and those of the output folder as one message; HYDRA_FULL_ERROR=1 shows everything.

    Raises:
        SystemExit: with the message, in place of such an error.
    """
    if "HYDRA_FULL_ERROR" in os.environ:
        try:
            yield
        except SystemExit as end:
            raise end.__cause__ or end from None
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors, instead of printing them with a traceback
    try:
        yield
    except OverrideParseException as error:
        raise SystemExit(
            f"error: cannot read {error.override!r}: settings are key=value, and special characters in a value need a "
            "second pair of quotes, 'key=\"a, b\"'; see python launch.py --help"
        ) from None
    except (CompactHydraException, OmegaConfBaseException, UserError) as error:
        raise SystemExit(f"error: {error}") from None
    except BrokenProcessPool:
        raise SystemExit(
            "error: a worker of the launcher was killed, which ends the others; perhaps memory was short, of which "
            "fewer workers need less. The same command again skips the finished runs and goes on with the rest"
        ) from None
    except OSError as error:
        raise SystemExit(f"error: {file_error(error)}") from None
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    finally:
        del os.environ["HYDRA_FULL_ERROR"]


def file_error(error: OSError) -> str:
    """ "cannot use outputs/train: Permission denied"."""
    if error.filename is None or error.strerror is None:
        return str(error)
    return f"cannot use {error.filename}: {error.strerror}; may this user write there, and is there room?"
