"""What keeps the beginning of a command short: nothing is imported, copied or swept that the command does not need.

Light itself: neither torch nor numpy. The launcher calls it before anything else; without it everything works, slower.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

SPIN = 3_000  # rounds, about a tenth of a millisecond, that a thread of torch's waits for more work before it sleeps
UNUSED = ("scipy", "transformers")  # what torchmetrics imports for metrics that nothing here computes


def quick_start() -> None:
    """Before the imports of a process's first run; `settle` comes after them."""
    if "OMP_WAIT_POLICY" not in os.environ:
        # Read by GNU's OpenMP as torch is loaded; by itself it waits for milliseconds, and our threads lack that core.
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN))
    if "lightning" not in sys.modules:
        gc.disable()  # modules are no garbage: looking through them again and again took a fifth of the imports' time
        _hide_from_torchmetrics()


def settle() -> None:
    """What is imported by now stays; the collector goes back to work on what comes."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


@contextmanager
def uncollected() -> Iterator[None]:
    """Around what imports or reads much, and leaves no garbage that matters."""
    working = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if working:
            gc.enable()


def quick_help() -> None:
    """Hydra copies its whole search path anew for each of the 140 times it lists a group for `--help`; once will do."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    private = "_parse_overrides_and_create_caching_repo"
    if hasattr(ConfigLoaderImpl, private):  # it is Hydra's own business: where it is gone, the help is slower
        slow = getattr(ConfigLoaderImpl, private)
        copied = cache(lambda loader, name: slow(loader, name, []))

        def listed(loader: object, config_name: str | None, overrides: list[str]) -> object:
            return slow(loader, config_name, overrides) if overrides or config_name else copied(loader, config_name)

        setattr(ConfigLoaderImpl, private, listed)


def _hide_from_torchmetrics() -> None:
    """Lightning imports torchmetrics, and that imports SciPy's signal processing and transformers where it finds them.

    It asks for them through these two names of lightning-utilities, and works without either.
    """
    from lightning_utilities.core import imports

    class Requirement(imports.RequirementCache):
        def __init__(self, requirement: str | None = None, module: str | None = None) -> None:
            super().__init__(requirement, module)
            if (requirement or "").startswith(UNUSED):
                self.available, self.message = False, f"{requirement} is not looked for (dreamfusion.cli.startup)"

    found = imports.package_available
    imports.package_available = cache(lambda name: name not in UNUSED and found(name))
    imports.RequirementCache = Requirement  # type: ignore[misc]
