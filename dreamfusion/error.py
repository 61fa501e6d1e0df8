"""Errors that a user can fix: one line that starts with `error:` and no traceback."""

import errno
import os
import re
import shlex
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from hydra.errors import CompactHydraException, InstantiationException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
MEMORY = (
    "there is not enough memory; lower camera.size, camera.views, field.log2_table_size, export.resolution or mode.size"
)
INTERRUPTED = 130  # exit status after Ctrl-C, as in shells: 128 + SIGINT; see signals.py


class UserError(ValueError):
    """An error that the user can fix; the message says how."""


class CheckpointError(UserError):
    """No usable checkpoint; the message names the path and what to type."""


class GuidanceError(RuntimeError):
    """The prior's weights are missing or unusable; the message says what was tried and what to type."""


def typed(name: str, value: object) -> str:
    """The setting `name=value` as one word of a shell, for a message that proposes to type it."""
    return command_line([f"{name}={value}"])


def command_line(words: Sequence[str]) -> str:
    """The words as a shell of this system takes them; on Windows in double quotes, which cmd and PowerShell know."""
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)


def user_message(error: BaseException) -> str | None:
    """The sentence for an error that the user can fix; None for a fault of the program, which needs its traceback."""
    reason = error.__cause__ if isinstance(error, InstantiationException) else error
    if reason is not None and is_out_of_memory(reason):  # also inside of the assembly
        return MEMORY
    if isinstance(reason, OSError):
        return file_error(reason)
    if "does not have a deterministic implementation" in str(reason) and isinstance(reason, RuntimeError):
        operation = str(reason).split(maxsplit=1)[0]
        return f"deterministic=true, but torch has no such {operation}; type deterministic=false"
    own = isinstance(reason, UserError | GuidanceError)
    of_hydra = isinstance(error, InstantiationException) and isinstance(reason, ValueError | TypeError | ImportError)
    return one_line(reason) if own or of_hydra else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the machine or the GPU has no memory left; tiny-cuda-nn says so by a plain RuntimeError."""
    torch = sys.modules.get("torch")  # else the error is none of a GPU
    of_gpu = torch is not None and isinstance(error, torch.OutOfMemoryError)
    words = ("can't allocate memory", "out of memory")
    return (
        of_gpu
        or isinstance(error, MemoryError)
        or (isinstance(error, RuntimeError | OSError) and any(part in str(error) for part in words))
    )


def check_positive(group: str, **counts: int) -> None:
    """Raises: UserError: a count among the settings of `group` is not a whole number of at least 1."""
    for name, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise UserError(f"{group}.{name} is {value}; it must be a whole number of at least 1")


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn errors of Hydra, of the user and of the file system into one line; HYDRA_FULL_ERROR=1 keeps tracebacks.

    Raises:
        SystemExit: with the message, instead of the original error.
    """
    if "HYDRA_FULL_ERROR" in os.environ:
        try:
            yield
        except SystemExit as end:
            raise end.__cause__ or end from None
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise its errors instead of printing them with a traceback
    try:
        yield
    except OverrideParseException as error:
        raise SystemExit(
            f"error: cannot read {error.override!r}: settings are key=value, and special characters in a value need a "
            "second pair of quotes, 'key=\"a, b\"'; see python launch.py --help"
        ) from None
    except (CompactHydraException, OmegaConfBaseException, UserError) as error:
        raise SystemExit(f"error: {one_line(error)}") from None
    except BrokenProcessPool:
        raise SystemExit(
            "error: a worker of the launcher was killed, which stops the others; if memory ran out, use fewer workers. "
            "Run the same command again to skip the finished runs and resume the rest"
        ) from None
    except OSError as error:
        raise SystemExit(f"error: {file_error(error)}") from None
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except Exception as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__", "").partition(".")[0] != "hydra":
            raise
        # Hydra composes the configuration from the command line, and some values raise a plain ValueError in it.
        raise SystemExit(f"error: {one_line(error)}; see python launch.py --help") from None
    finally:
        del os.environ["HYDRA_FULL_ERROR"]


def one_line(error: object) -> str:
    """The message of an error on one line, without what Hydra and OmegaConf add: search path, type of the node, ..."""
    message = re.split(r"\n\s*(?:Config search path|full_key|object_type)\b", str(error))[0]
    return printable(" ".join(message.removeprefix("UserError raised while resolving interpolation: ").split()))


def printable(text: str) -> str:
    """Text with its control characters escaped, except for tabs and new lines: a terminal obeys those of any file."""
    return CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def file_error(error: OSError) -> str:
    """Describe a file system error, as in "cannot use outputs/train: Permission denied"."""
    if error.filename is None or error.strerror is None:
        return str(error)
    if isinstance(error, PermissionError):  # of a rename, the second name is the file, the first its draft
        name = error.filename2 or error.filename
        return f"cannot use {name}: {error.strerror}; check the permissions, and whether it is open in another program"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"cannot write to {error.filename}: {error.strerror}; free some space and repeat the command"
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return f"cannot use {error.filename}: {error.strerror}; a file is where a folder has to be: type another name"
    return f"cannot use {error.filename}: {error.strerror}; check the permissions and the free space"
