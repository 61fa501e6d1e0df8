"""A finished run as tests of studies have it."""

from dataclasses import replace

from dreamfusion.runs.results import Result

CAT = Result("a cat", 0, 100, 12.5, {"silhouette_iou": 0.97}, {"prompt": "a cat", "seed": 0, "system.seed": 0})


def with_settings(**settings):
    """The same run with further settings; `__` in a name stands for a dot."""
    return replace(CAT, settings=CAT.settings | {name.replace("__", "."): v for name, v in settings.items()})
