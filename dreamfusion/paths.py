"""Where the configuration files are: a wheel contains the two folders that a checkout has beside the package."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
CONFIGURATION, SWEEPS = (
    _PACKAGE / name if (_PACKAGE / name).is_dir() else _PACKAGE.parent / name for name in ("conf", "sweeps")
)
