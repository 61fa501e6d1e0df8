"""Filter other libraries' console messages: each message once, without advertisements."""

import io
import logging
import sys
import warnings

NOISE = (  # prefixes of Lightning messages that carry no information
    "💡 Tip",
    "TPU available",
    "`weights_only` was not set",
    "`Trainer.fit` stopped: `max_steps",
)


def filter_messages() -> None:
    """Drop only the messages named here, and escape characters that the console cannot encode."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    # Lightning's own handler and the root logger would both print each record.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logger = logging.getLogger(name)
        logger.handlers = [_Relay()]
        logger.propagate = False
    # Lightning's own use of PyTorch's tree functions.
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).* is deprecated")


class _Relay(logging.Handler):
    """Passes records to the root logger, except for NOISE."""

    def emit(self, record: logging.LogRecord) -> None:
        if not record.getMessage().startswith(NOISE):
            logging.getLogger().handle(record)
