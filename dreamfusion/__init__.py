"""DreamFusion (Poole et al. 2022, arXiv 2209.14988): text-to-3D by score distillation sampling.

`dreamfusion.dream("a cat")` makes a run from Python, `dreamfusion.compose([...])` a configuration,
`dreamfusion.load_scene(folder)` reads a run; see `api.py`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dreamfusion.api import Run, compose, dream, load_scene

__version__ = "0.1.0"
__all__ = ["Run", "compose", "dream", "load_scene"]


def __getattr__(name: str) -> object:
    """Import the Python API at its first use: the command line needs none of it."""
    if name in __all__:
        from dreamfusion import api

        return getattr(api, name)
    raise AttributeError(f"module 'dreamfusion' has no attribute {name!r}")
