"""A run's option of a group is found by its settings."""

from dataclasses import replace

import pytest
from results import CAT

from dreamfusion.paths import CONFIGURATION
from dreamfusion.runs.options import by_option, option_of
from dreamfusion.runs.settings import run_settings
from dreamfusion.runs.study import differing

METHODS = sorted(path.stem for path in (CONFIGURATION / "distillation").glob("*.yaml"))


@pytest.mark.parametrize("method", METHODS)
def test_each_method_is_found_by_what_it_composes(method, compose_config):
    assert option_of("distillation", run_settings(compose_config("prompt=a cat", f"distillation={method}"))) == method


def test_settings_that_no_option_has_are_not_named(compose_config):
    settings = run_settings(compose_config("prompt=a cat", "distillation=csd", "distillation.weighting=sigma2"))
    assert option_of("distillation", settings) is None
    assert option_of("distillation", {"distillation": "sds"}) is None


def test_one_setting_stands_for_those_in_which_the_options_of_a_group_differ(compose_config):
    methods = ("sds", "denoise_fit", "csd")
    cfgs = [compose_config("prompt=a cat", f"distillation={method}") for method in methods]
    results = [replace(CAT, settings=run_settings(cfg)) for cfg in cfgs]
    assert len(differing(results)) > 1
    named = by_option(results, differing(results))
    assert differing(named) == ["distillation"]
    assert [result.settings["distillation"] for result in named] == list(methods)
    changed = replace(CAT, settings=results[0].settings | {"distillation.rescale": 0.3})
    assert by_option([changed, results[0]], ["distillation.rescale"]) == [changed, results[0]]


def test_a_setting_that_was_added_to_an_option_stays_a_column(compose_config):
    """Such as the weight of a regulariser of one's own: the runs would be in one row of the leaderboard."""
    whole = run_settings(compose_config("prompt=a cat"))
    weighted = [replace(CAT, settings=whole | {"system.regularizer.own": weight}) for weight in (0.1, 1.0)]
    for runs in (weighted, [replace(CAT, settings=whole), weighted[0]]):
        assert differing(runs) == ["system.regularizer.own"]
        assert by_option(runs, differing(runs)) == runs
