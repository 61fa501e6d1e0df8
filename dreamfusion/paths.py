"""Where the configuration files, the checkpoints of a run and the user's cache are.

A wheel contains the two folders of configuration that a checkout has beside the package.
"""

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
CONFIGURATION, SWEEPS = (
    _PACKAGE / name if (_PACKAGE / name).is_dir() else _PACKAGE.parent / name for name in ("conf", "sweeps")
)
CHECKOUT = _PACKAGE.parent  # of the source; for an installed package the folder of all packages
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "dreamfusion"
LAST, PREVIOUS = "last.ckpt", "previous.ckpt"  # names in checkpoints/, the second of the checkpoint before the last
REFERENCE = "reference.png"  # name of the framed picture in the folder of a run that has one


def run_of(checkpoint: Path) -> Path:
    """Folder of a checkpoint's run: the parent of `checkpoints/`, else the folder that contains the file."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent
