import re
from dataclasses import fields
from math import inf, nan
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from dreamfusion.error import UserError
from dreamfusion.export.settings import ALLOWED, ExportSettings


@pytest.fixture
def export():
    return OmegaConf.load(Path(__file__).parents[2] / "conf" / "export" / "glb.yaml")


def test_every_checked_setting_is_in_the_default_file_which_is_allowed(export):
    assert set(ALLOWED) <= set(export) == {field.name for field in fields(ExportSettings)}
    ExportSettings.of(export)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("resolution", 4),
        ("min_piece", 2.0),
        ("min_standing_piece", -1.0),
        ("threshold", 0),
        ("threshold", nan),
        ("texture", 15),
        ("faces", 99),
        ("density", 0),
        ("concavity", 0),
        ("levels", 5000),
        ("levels", [5000, 10000]),
        ("levels", [30000]),
        ("levels", [50]),
        ("size", 0.0),
        ("size", inf),
        ("up", inf),
        ("chunk", 0),
    ],
)
def test_value_outside_the_allowed_ones_is_named(export, name, value):
    export[name] = value
    with pytest.raises(UserError, match=re.escape(f"export.{name} is {value}; it ")):
        ExportSettings.of(export)


def test_a_setting_with_fractions_has_one_in_its_default_by_which_the_command_line_is_checked(export):
    fractions = [field.name for field in fields(ExportSettings) if field.type == "float" or field.type is float]
    assert "density" in fractions
    assert all(isinstance(export[name], float) for name in fractions)


@pytest.mark.parametrize(
    ("name", "value"),
    [("threshold", 5), ("texture", 0), ("faces", 0), ("levels", [29999, 100]), ("size", None), ("up", "z")],
)
def test_special_values_are_allowed(export, name, value):
    export[name] = value
    ExportSettings.of(export)


def test_quadrilaterals_are_refused_in_formats_without_them(export):
    export.quads = True
    with pytest.raises(UserError, match=r"export.quads is true with export=glb, .* type export=obj export.quads=true"):
        ExportSettings.of(export)
    export.format = "obj"
    ExportSettings.of(export)
