"""What other libraries say on the console: each thing once, as a plain line, without what tells a user nothing."""

from __future__ import annotations

import io
import logging
import sys
import warnings

NOISE = (  # how messages of Lightning begin that are advertisements, or say what is always so
    "💡 Tip",
    "TPU available",
    "`weights_only` was not set",
    "`Trainer.fit` stopped: `max_steps",
)


def filter_messages() -> None:
    """Filter the messages named here and no others, and print a prompt in any script on any console."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    # Lightning prints to a handler of its own and hands the same records to the root logger, which prints them again.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logger = logging.getLogger(name)
        logger.handlers = [_Relay()]
        logger.propagate = False
    # Lightning's own use of PyTorch's tree functions.
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).* is deprecated")


class _Relay(logging.Handler):
    """Hands records to the root logger, except for noise."""

    def emit(self, record: logging.LogRecord) -> None:
        if not record.getMessage().startswith(NOISE):
            logging.getLogger().handle(record)
