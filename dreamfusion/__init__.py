"""DreamFusion (Poole et al. 2022, arXiv 2209.14988): text-to-3D by score distillation sampling.

`dreamfusion.dream("a cat")` makes a run from Python, `dreamfusion.compose([...])` a configuration; see `api.py`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dreamfusion.api import Run, compose, dream

__version__ = "0.1.0"
__all__ = ["Run", "compose", "dream"]


def __getattr__(name: str) -> object:
    """Import the Python API at its first use: the command line needs none of it."""
    if name in ("Run", "compose", "dream"):
        from dreamfusion import api

        return getattr(api, name)
    raise AttributeError(f"module 'dreamfusion' has no attribute {name!r}")
