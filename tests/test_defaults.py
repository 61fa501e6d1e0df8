"""Defaults stand in conf/ only."""

import inspect
from pathlib import Path

import pytest
from hydra.utils import get_class
from omegaconf import OmegaConf

CONF = Path(__file__).parents[1] / "conf"
GROUPS = (
    "background", "camera", "distillation", "field", "guidance", "optimizer", "prompting", "renderer", "scene",
    "system",
)  # fmt: skip
OPTIONS = [path for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]


def built(settings):
    """The class of every `_target_` of this package, with the settings beside that `_target_`."""
    if settings.get("_target_", "").startswith("dreamfusion."):
        yield get_class(settings["_target_"]), settings
    for value in settings.values():
        if isinstance(value, dict):
            yield from built(value)


def constructor_defaults(cls):
    """Parameters with a default in the constructors of a class and of its bases."""
    constructors = [base.__init__ for base in cls.__mro__ if base.__module__.startswith("dreamfusion.")]
    parameters = [p for each in constructors for p in inspect.signature(each).parameters.values()]
    return {p.name for p in parameters if p.default is not inspect.Parameter.empty}


@pytest.mark.parametrize("path", OPTIONS, ids=lambda path: path.relative_to(CONF).as_posix())
def test_a_setting_of_an_option_has_no_second_default_in_its_constructor(path):
    for cls, settings in built(OmegaConf.to_container(OmegaConf.load(path))):
        assert not constructor_defaults(cls) & settings.keys()
