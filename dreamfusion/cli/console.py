"""Filter other libraries' console messages: each message once, without advertisements."""

import io
import logging
import os
import sys
import warnings

from dreamfusion.error import printable
from dreamfusion.phases import share_terminal

NOISE = (  # prefixes of Lightning messages that carry no information, or ask for what needs no action
    "💡 Tip",
    "TPU available",
    "`weights_only` was not set",
    "`Trainer.fit` stopped: `max_steps",
    "You are using a CUDA device",  # and could multiply less precisely: a small part of a step
)


def filter_messages(prefix: str = "") -> None:
    """Drop only the messages named here, and escape characters that the console cannot encode.

    `prefix` stands before each line of a run beside which others run.
    """
    Console.prefix = printable(prefix)
    share_terminal(bool(prefix))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    # Lightning's own handler and the root logger would both print each record.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logger = logging.getLogger(name)
        logger.handlers = [_Relay()]
        logger.propagate = False
    # Lightning's own use of PyTorch's tree functions.
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).* is deprecated")
    # A batch is a few random numbers; mode=pretrain composes its batches on the training device.
    warnings.filterwarnings("ignore", message=".*does not have many workers which may be a bottleneck")
    # nerfacc's docstrings, when Python 3.12 or newer compiles them at the first start.
    warnings.filterwarnings("ignore", message=".*invalid escape sequence", category=SyntaxWarning)


class Console(logging.StreamHandler):
    """Hydra's handler for the standard output, which goes nowhere once its reader is gone, as in `... | head -3`.

    A prompt of a foreign run may hold control characters, which are escaped.
    """

    prefix = ""  # of every line

    def format(self, record: logging.LogRecord) -> str:
        lines = printable(super().format(record)).split("\n")
        return "\n".join(f"{self.prefix}{line}" if line else line for line in lines)

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exception(), BrokenPipeError):
            return super().handleError(record)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.stream.fileno())  # for what is still buffered, and for every other writer
        return os.close(nowhere)


class _Relay(logging.Handler):
    """Passes records to the root logger, except for NOISE."""

    def emit(self, record: logging.LogRecord) -> None:
        if not record.getMessage().startswith(NOISE):
            logging.getLogger().handle(record)
